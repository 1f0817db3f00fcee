#include "server/inference_service.h"

#include <string>
#include <utility>

#include "base/status_macros.h"
#include "server/decode_modes.h"
#include "server/generate_stream.h"
#include "server/request_builder.h"
#include "server/rpc_status.h"
#include "server/unknown_fields.h"
#include "server/version.h"
#include "server/weight_formats.h"

namespace skim {
namespace {

// The messages of a call are those of this protocol.
class OwnMessages {
 public:
  explicit OwnMessages(const v1::GenerateRequest* request) : request_(request) {}
  const v1::GenerateRequest& request() const { return *request_; }
  bool Translate(v1::GenerateResponse response, v1::GenerateResponse* out) {
    *out = std::move(response);
    return true;
  }
  absl::Status TranslateError(const absl::Status& status) { return status; }

 private:
  const v1::GenerateRequest* request_;
};

using InferenceStream = GenerateStream<v1::GenerateResponse, OwnMessages>;

absl::Status TokenizeInput(const v1::TokenizeRequest& request, const Tokenizer& tokenizer,
                           v1::TokenizeResponse* response) {
  SKIM_RETURN_IF_ERROR(CheckNoUnknownFields(request));
  if (request.input_case() == v1::TokenizeRequest::INPUT_NOT_SET) {
    return InvalidField("input", "one of text and chat must be set");
  }
  if (request.has_chat() && request.has_parse_special_tokens()) {
    return InvalidField("parse_special_tokens", "applies to text only");
  }
  auto ids = request.has_chat()
                 ? EncodeChat(request.chat(), tokenizer)
                 : EncodeText(request.text(), request.parse_special_tokens(), tokenizer);
  if (!ids.ok()) return ids.status();
  for (TokenId id : *ids) {
    response->add_ids(static_cast<uint32_t>(id));
    response->add_texts(tokenizer.TokenText(id));
  }
  return absl::OkStatus();
}

absl::Status DetokenizeIds(const v1::DetokenizeRequest& request, const Tokenizer& tokenizer,
                           v1::DetokenizeResponse* response) {
  SKIM_RETURN_IF_ERROR(CheckNoUnknownFields(request));
  SKIM_ASSIGN_OR_RETURN(const auto ids, CheckedIds(request.ids(), "ids", tokenizer.vocab_size()));
  const bool skip_special =
      request.has_skip_special_tokens() ? request.skip_special_tokens() : true;
  SKIM_ASSIGN_OR_RETURN(*response->mutable_text(), tokenizer.Decode(ids, skip_special));
  return absl::OkStatus();
}

void DescribeModel(const ServedModel& model, v1::GetModelResponse* response) {
  const ModelInfo& info = *model.info;
  response->set_name(model.name);
  response->set_architecture(info.architecture);
  response->set_parameters(info.parameters);
  response->set_layers(info.layers);
  response->set_hidden_size(info.hidden_size);
  response->set_kv_size(info.kv_size);
  response->set_vocabulary(info.vocabulary);
  response->set_max_context(info.max_context);
  for (const int32_t boundary : info.lazy.boundaries) {
    response->add_prefill_boundaries(static_cast<uint32_t>(boundary));
  }
  for (const int32_t boundary : info.lazy.predicted) {
    response->add_prefill_predicted_boundaries(static_cast<uint32_t>(boundary));
  }
  for (size_t b = 0; b < info.lazy.scouts.size(); ++b) {
    if (!info.lazy.scouts[b].any()) continue;
    response->add_prefill_scouted_boundaries(static_cast<uint32_t>(info.lazy.boundaries[b]));
    response->add_prefill_scout_layers(static_cast<uint32_t>(info.lazy.scouts[b].end_layer()));
  }
  for (const PruneProfile& profile : info.lazy.profiles) {
    if (!info.lazy.Serves(profile)) continue;
    response->add_prefill_profiles(profile.name);
    v1::PrefillProfile* settings = response->add_prefill_profile_settings();
    settings->set_name(profile.name);
    settings->mutable_keep_ratio()->Add(profile.keep.begin(), profile.keep.end());
    settings->set_decode_mode(ToProto(profile.decode));
    settings->set_revival_budget(static_cast<uint32_t>(profile.revival_budget));
    settings->set_score_window(static_cast<uint32_t>(profile.window));
    settings->set_look_back(static_cast<uint32_t>(profile.look_back));
  }
  if (!info.lazy.boundaries.empty()) {
    response->set_prefill_min_prompt_tokens(static_cast<uint32_t>(model.limits.min_lazy_tokens));
    response->set_prefill_min_kept_tokens(static_cast<uint32_t>(PrefillPolicy().min_keep));
  }
  for (const DrafterKind drafter : model.drafters()) {
    response->add_drafters(std::string(DrafterName(drafter)));
  }
  response->set_max_draft_tokens(static_cast<uint32_t>(model.limits.max_draft_tokens));
  response->set_answer_store_bytes(static_cast<uint64_t>(model.limits.answer_store_bytes));
  for (TokenId id : info.eos_tokens) response->add_end_token_ids(static_cast<uint32_t>(id));
  response->set_has_chat_template(model.tokenizer->has_chat_template());
  for (const FormatInfo& weights : info.weights) {
    response->add_weight_formats(ToProto(weights.format));
    response->add_weight_format_bytes(weights.bytes);
  }
  response->set_common_weight_bytes(info.common_weight_bytes);
  response->set_draft_head_bytes(info.draft_head_bytes);
  for (const int32_t exit : info.adapted_exits) {
    response->add_adapted_exits(static_cast<uint32_t>(exit));
  }
  response->set_exit_adapter_bytes(info.exit_adapter_bytes);
  response->set_draft_model_bytes(info.draft_model_bytes);
  response->set_draft_model_step_bytes(info.draft_model_step_bytes);
  response->set_backend(info.backend);
  response->set_version(kVersion);
  response->set_kv_format(std::string(KvFormatName(info.kv_format)));
  response->set_kv_cache_tokens(static_cast<uint64_t>(info.kv_cache_tokens));
}

}  // namespace

InferenceService::InferenceService(const CallServices& services, const ServingGate* gate,
                                   BearerAuth auth)
    : services_(services), gate_(gate), auth_(std::move(auth)) {}

absl::StatusOr<ServedModel> InferenceService::Admit(
    const grpc::CallbackServerContext& context) const {
  SKIM_RETURN_IF_ERROR(auth_.Check(context));
  return gate_->Enter();
}

grpc::ServerWriteReactor<v1::GenerateResponse>* InferenceService::Generate(
    grpc::CallbackServerContext* context, const v1::GenerateRequest* request) {
  const auto model = Admit(*context);
  if (!model.ok()) {
    services_.metrics->OnRefused(model.status().code());
    return new RefusedStream<v1::GenerateResponse>(model.status());
  }
  auto* stream = new InferenceStream(context, *model, services_, OwnMessages(request));
  stream->Start();
  return stream;
}

grpc::ServerUnaryReactor* InferenceService::RunUnary(
    grpc::CallbackServerContext* context, std::function<absl::Status(const ServedModel&)> work) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  auto model = Admit(*context);
  if (!model.ok()) {
    reactor->Finish(ToGrpcStatus(model.status()));
    return reactor;
  }
  // The call lives until Finish, so whatever `work` borrows from it is there.
  const bool posted = services_.workers->TryPostAdmission(
      [reactor, model = *std::move(model), work = std::move(work)] {
        reactor->Finish(ToGrpcStatus(work(model)));
      });
  if (!posted) {
    reactor->Finish(ToGrpcStatus(RetryAfter(
        absl::ResourceExhaustedError("too many calls wait to be tokenised"), kRetryDelay)));
  }
  return reactor;
}

grpc::ServerUnaryReactor* InferenceService::Tokenize(grpc::CallbackServerContext* context,
                                                     const v1::TokenizeRequest* request,
                                                     v1::TokenizeResponse* response) {
  return RunUnary(context, [request, response](const ServedModel& model) {
    return TokenizeInput(*request, *model.tokenizer, response);
  });
}

grpc::ServerUnaryReactor* InferenceService::Detokenize(grpc::CallbackServerContext* context,
                                                       const v1::DetokenizeRequest* request,
                                                       v1::DetokenizeResponse* response) {
  return RunUnary(context, [request, response](const ServedModel& model) {
    return DetokenizeIds(*request, *model.tokenizer, response);
  });
}

grpc::ServerUnaryReactor* InferenceService::GetModel(grpc::CallbackServerContext* context,
                                                     const v1::GetModelRequest* request,
                                                     v1::GetModelResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const auto model = Admit(*context);
  if (model.ok()) DescribeModel(*model, response);
  reactor->Finish(ToGrpcStatus(model.status()));
  return reactor;
}

}  // namespace skim
