#include "server/request_builder.h"

#include <algorithm>

#include "base/status_macros.h"
#include "server/build_prefill.h"
#include "server/build_sampling.h"
#include "server/build_speculation.h"
#include "server/rpc_status.h"
#include "server/savings.h"
#include "server/unknown_fields.h"
#include "server/weight_formats.h"

namespace skim {
namespace {

absl::Status CheckName(const char* field, const std::string& value) {
  if (IsPrintableName(value)) return absl::OkStatus();
  return InvalidField(
      field, "must be printable ASCII of at most " + std::to_string(kMaxNameBytes) + " bytes");
}

absl::Status CheckNames(const v1::GenerateRequest& request) {
  SKIM_RETURN_IF_ERROR(CheckName("request_id", request.request_id()));
  SKIM_RETURN_IF_ERROR(CheckName("tenant", request.tenant()));
  SKIM_RETURN_IF_ERROR(CheckName("cache_salt", request.cache_salt()));
  if (request.has_time_limit_ms() && request.time_limit_ms() == 0) {
    return InvalidField("time_limit_ms", "must be at least 1");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<TokenId>> EncodeInput(const v1::GenerateRequest& request,
                                                 const ServedModel& model) {
  switch (request.input_case()) {
    case v1::GenerateRequest::kText:
      return EncodeText(request.text(), request.parse_special_tokens(), *model.tokenizer);
    case v1::GenerateRequest::kChat:
      return EncodeChat(request.chat(), *model.tokenizer);
    case v1::GenerateRequest::kTokenIds:
      return CheckedIds(request.token_ids().ids(), "token_ids.ids", model.info->vocabulary);
    case v1::GenerateRequest::INPUT_NOT_SET:
      break;
  }
  return InvalidField("input", "one of text, chat and token_ids must be set");
}

absl::StatusOr<std::vector<TokenId>> BuildPrompt(const v1::GenerateRequest& request,
                                                 const ServedModel& model) {
  const char* field = InputField(request);
  if (request.has_parse_special_tokens() && request.input_case() != v1::GenerateRequest::kText) {
    return InvalidField("parse_special_tokens", "applies to text only");
  }
  SKIM_ASSIGN_OR_RETURN(std::vector<TokenId> prompt, EncodeInput(request, model));
  if (prompt.empty()) return InvalidField(field, "the prompt is empty");
  // A tokenizer may know more tokens than the model has embeddings.
  const TokenId largest = *std::ranges::max_element(prompt);
  if (largest >= model.info->vocabulary) {
    return InvalidField(
        field, "holds token id " + std::to_string(largest) + ", which the model does not have");
  }
  if (prompt.size() >= static_cast<size_t>(model.info->max_context)) {
    return FieldError(absl::StatusCode::kOutOfRange, field,
                      "the prompt has " + std::to_string(prompt.size()) +
                          " tokens; with one token of output it does not fit the context of " +
                          std::to_string(model.info->max_context));
  }
  return prompt;
}

OutputOptions BuildOutput(const v1::GenerateRequest& request) {
  const v1::Output& output = request.output();
  OutputOptions options;
  options.text = output.has_text() ? output.text() : true;
  options.token_ids = output.has_token_ids() ? output.token_ids() : true;
  options.logprobs = output.has_logprobs();
  options.include_stop = output.include_stop();
  if (output.has_skip_special_tokens()) options.skip_special = output.skip_special_tokens();
  options.stop.assign(request.sampling().stop().begin(), request.sampling().stop().end());
  return options;
}

}  // namespace

bool IsPrintableName(const std::string& value) {
  return value.size() <= kMaxNameBytes &&
         std::ranges::all_of(value, [](unsigned char c) { return c >= 0x20 && c < 0x7f; });
}

const char* InputField(const v1::GenerateRequest& request) {
  switch (request.input_case()) {
    case v1::GenerateRequest::kText:
      return "text";
    case v1::GenerateRequest::kChat:
      return "chat";
    case v1::GenerateRequest::kTokenIds:
      return "token_ids";
    case v1::GenerateRequest::INPUT_NOT_SET:
      break;
  }
  return "input";
}

absl::StatusOr<std::vector<TokenId>> EncodeText(const std::string& text, bool parse_special,
                                                const Tokenizer& tokenizer) {
  auto ids = tokenizer.Encode(text, /*add_special=*/true, parse_special);
  if (!ids.ok()) return AtField(ids.status(), "text");
  return ids;
}

absl::StatusOr<std::vector<TokenId>> EncodeChat(const v1::Chat& chat, const Tokenizer& tokenizer) {
  if (!tokenizer.has_chat_template()) {
    return FieldError(absl::StatusCode::kFailedPrecondition, "chat",
                      "this model has no chat template");
  }
  if (chat.messages().empty()) return InvalidField("chat.messages", "must not be empty");
  if (chat.messages_size() > kMaxChatMessages) {
    return InvalidField("chat.messages", std::to_string(chat.messages_size()) +
                                             " messages; the limit is " +
                                             std::to_string(kMaxChatMessages));
  }
  std::vector<ChatMessage> messages;
  messages.reserve(chat.messages_size());
  for (const v1::Message& message : chat.messages()) {
    if (message.role().empty()) {
      return InvalidField("chat.messages[" + std::to_string(messages.size()) + "].role",
                          "must not be empty");
    }
    messages.push_back({message.role(), message.content()});
  }
  const bool prompt_reply = chat.has_add_generation_prompt() ? chat.add_generation_prompt() : true;
  auto ids = tokenizer.EncodeChat(messages, prompt_reply);
  if (!ids.ok()) return AtField(ids.status(), "chat");
  return ids;
}

absl::StatusOr<std::vector<TokenId>> CheckedIds(
    const google::protobuf::RepeatedField<uint32_t>& ids, const std::string& field,
    int32_t vocabulary) {
  std::vector<TokenId> out;
  out.reserve(ids.size());
  for (uint32_t id : ids) {
    if (id >= static_cast<uint32_t>(vocabulary)) {
      return InvalidField(field + "[" + std::to_string(out.size()) + "]",
                          "token id " + std::to_string(id) + " is not in the vocabulary of " +
                              std::to_string(vocabulary));
    }
    out.push_back(static_cast<TokenId>(id));
  }
  return out;
}

absl::StatusOr<Generation> BuildGeneration(const v1::GenerateRequest& request,
                                           const ServedModel& model, Micros arrival,
                                           Micros deadline, uint64_t drawn_seed) {
  SKIM_RETURN_IF_ERROR(CheckNoUnknownFields(request));
  SKIM_ASSIGN_OR_RETURN(const std::string savings,
                        SavingsInName(request.model(), model.name, "model"));
  if (!savings.empty()) {
    v1::GenerateRequest spelled_out = request;
    spelled_out.set_model(model.name);
    SKIM_RETURN_IF_ERROR(ApplySavings(savings, model, "model", &spelled_out));
    return BuildGeneration(spelled_out, model, arrival, deadline, drawn_seed);
  }
  SKIM_RETURN_IF_ERROR(CheckNames(request));
  SKIM_ASSIGN_OR_RETURN(
      const WeightFormat weights,
      ChooseWeights(request.weights(), model.info->weights.front().format, "weights", *model.info));
  SKIM_RETURN_IF_ERROR(
      CheckSampling(request.sampling(), request.output(), *model.info, model.limits));
  SKIM_ASSIGN_OR_RETURN(std::vector<TokenId> prompt, BuildPrompt(request, model));
  SKIM_ASSIGN_OR_RETURN(
      SamplingParams sampling,
      BuildSampling(request.sampling(), request.output(), *model.info, model.limits,
                    static_cast<int32_t>(prompt.size()), drawn_seed));

  SKIM_ASSIGN_OR_RETURN(
      PrefillPolicy prefill,
      BuildPrefill(request, model, static_cast<int32_t>(prompt.size())));
  SKIM_ASSIGN_OR_RETURN(const SpeculationPolicy speculation,
                        BuildSpeculation(request, model, weights, prefill));

  Request one;
  one.prefill = std::move(prefill);
  one.speculation = speculation;
  one.prompt = std::move(prompt);
  one.sampling = std::move(sampling);
  one.weight_format = weights;
  one.priority = request.priority();
  one.tenant = request.tenant();
  one.cache_salt = request.cache_salt();
  one.deadline = deadline;
  if (request.has_time_limit_ms()) {
    one.deadline = std::min(deadline, arrival + Micros{request.time_limit_ms()} * 1000);
  }
  Generation generation;
  generation.output = BuildOutput(request);
  const uint32_t choices = request.sampling().has_n() ? request.sampling().n() : 1;
  for (uint32_t i = 0; i < choices; ++i) {
    generation.requests.push_back(one);
    generation.requests.back().sampling.seed += i;
  }
  return generation;
}

}  // namespace skim
