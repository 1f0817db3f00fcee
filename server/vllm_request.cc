#include "server/vllm_request.h"

#include <algorithm>
#include <string>

#include "base/status_macros.h"
#include "server/rpc_status.h"
#include "server/unknown_fields.h"

namespace skim {
namespace {

absl::Status NotServed(const std::string& field, const std::string& what) {
  return FieldError(absl::StatusCode::kUnimplemented, field, what);
}

const char* ConstraintField(const vllm::SamplingParams& s) {
  switch (s.constraint_case()) {
    case vllm::SamplingParams::kJsonSchema:
      return "sampling_params.json_schema";
    case vllm::SamplingParams::kRegex:
      return "sampling_params.regex";
    case vllm::SamplingParams::kGrammar:
      return "sampling_params.grammar";
    case vllm::SamplingParams::kStructuralTag:
      return "sampling_params.structural_tag";
    case vllm::SamplingParams::kJsonObject:
      return "sampling_params.json_object";
    case vllm::SamplingParams::kChoice:
      return "sampling_params.choice";
    case vllm::SamplingParams::CONSTRAINT_NOT_SET:
      break;
  }
  return nullptr;
}

absl::Status CheckServed(const vllm::GenerateRequest& request) {
  if (request.has_kv_transfer_params()) {
    return NotServed("kv_transfer_params", "KV is not moved between servers");
  }
  if (request.has_kv_transfer_params_json()) {
    return NotServed("kv_transfer_params_json", "KV is not moved between servers");
  }
  if (request.has_mm_inputs()) return NotServed("mm_inputs", "only text is served");
  if (!request.extra_mm_inputs().empty())
    return NotServed("extra_mm_inputs", "only text is served");
  if (request.has_media_refs()) return NotServed("media_refs", "only text is served");
  if (request.data_parallel_rank() != 0) {
    return InvalidField("data_parallel_rank", "this server is one rank, 0");
  }
  const vllm::SamplingParams& s = request.sampling_params();
  if (const char* field = ConstraintField(s)) return NotServed(field, "output is not constrained");
  if (s.grammar_from_first_token()) {
    return NotServed("sampling_params.grammar_from_first_token", "output is not constrained");
  }
  if (s.has_truncate_prompt_tokens()) {
    return NotServed("sampling_params.truncate_prompt_tokens", "prompts are not cut");
  }
  return CheckNoUnknownFields(request);
}

absl::Status CopySampling(const vllm::SamplingParams& from, v1::Sampling* to) {
  to->set_temperature(from.has_temperature() ? from.temperature() : 1);
  to->set_top_p(from.top_p() == 0 ? 1 : from.top_p());
  to->set_top_k(from.top_k());
  to->set_min_p(from.min_p());
  to->set_frequency_penalty(from.frequency_penalty());
  to->set_presence_penalty(from.presence_penalty());
  to->set_repetition_penalty(from.repetition_penalty() == 0 ? 1 : from.repetition_penalty());
  if (from.has_max_tokens()) to->set_max_tokens(from.max_tokens());
  to->set_min_tokens(from.min_tokens());
  *to->mutable_stop() = from.stop();
  *to->mutable_stop_token_ids() = from.stop_token_ids();
  to->set_ignore_eos(from.ignore_eos());
  to->set_n(from.n() == 0 ? 1 : from.n());
  if (from.has_seed()) to->set_seed(static_cast<uint64_t>(int64_t{from.seed()}));
  for (const auto& [token, bias] : from.logit_bias()) {
    if (token < 0) {
      return InvalidField("sampling_params.logit_bias[" + std::to_string(token) + "]",
                          "there is no such token");
    }
    (*to->mutable_logit_bias())[static_cast<uint32_t>(token)] = bias;
  }
  return absl::OkStatus();
}

absl::Status CopyOutput(const vllm::GenerateRequest& from, v1::Output* to) {
  const vllm::SamplingParams& s = from.sampling_params();
  to->set_text(false);
  to->set_token_ids(true);
  to->set_include_stop(s.include_stop_str_in_output());
  to->set_skip_special_tokens(s.skip_special_tokens());
  if (s.has_logprobs() && s.logprobs() < 0) {
    return InvalidField("sampling_params.logprobs", "must be at least 0");
  }
  if (s.has_prompt_logprobs() && s.prompt_logprobs() < 0) {
    return InvalidField("sampling_params.prompt_logprobs", "must be at least 0");
  }
  if (s.has_prompt_logprobs() && !from.has_tokenized()) {
    return InvalidField("sampling_params.prompt_logprobs", "needs a tokenized prompt");
  }
  // One number of alternatives serves both; the answer is cut to what was asked for.
  if (s.has_logprobs() || s.has_prompt_logprobs()) {
    to->set_logprobs(static_cast<uint32_t>(std::max(s.logprobs(), s.prompt_logprobs())));
  }
  if (s.has_prompt_logprobs()) to->set_prompt_logprobs(true);
  return absl::OkStatus();
}

// A longer prefix stands before a shorter one.
constexpr FieldName kFieldNames[] = {
    {"output.", "sampling_params."},
    {"sampling.", "sampling_params."},
    {"token_ids.ids", "tokenized.input_ids"},
    {"token_ids", "tokenized.input_ids"},
};

}  // namespace

absl::StatusOr<v1::GenerateRequest> FromVllm(const vllm::GenerateRequest& request,
                                             const std::string& model) {
  SKIM_RETURN_IF_ERROR(CheckServed(request));
  v1::GenerateRequest out;
  out.set_model(model);
  out.set_request_id(request.request_id());
  if (request.has_tokenized()) {
    *out.mutable_token_ids()->mutable_ids() = request.tokenized().input_ids();
  } else if (request.has_text()) {
    out.set_text(request.text());
    out.set_parse_special_tokens(true);
  }
  SKIM_RETURN_IF_ERROR(CopySampling(request.sampling_params(), out.mutable_sampling()));
  SKIM_RETURN_IF_ERROR(CopyOutput(request, out.mutable_output()));
  return out;
}

absl::Status ToVllmFields(const absl::Status& status) { return RenameField(status, kFieldNames); }

}  // namespace skim
