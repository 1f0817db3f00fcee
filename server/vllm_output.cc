#include "server/vllm_output.h"

#include <algorithm>
#include <string>
#include <utility>

namespace skim {
namespace {

// The best `count` of them.
void AddTop(const v1::TokenLogprobs& token, int32_t count, vllm::TopLogProbs* out) {
  const int kept = std::min(count, token.top_size());
  for (int i = 0; i < kept; ++i) {
    out->add_values(token.top(i).logprob());
    out->add_token_ids(token.top(i).token_id());
  }
}

}  // namespace

const char* VllmFinishReason(v1::FinishReason reason) {
  switch (reason) {
    case v1::FINISH_REASON_STOP:
      return "stop";
    case v1::FINISH_REASON_LENGTH:
      return "length";
    default:
      return "abort";
  }
}

bool VllmOutput::Translate(v1::GenerateResponse response, vllm::GenerateResponse* out) {
  out->Clear();
  const uint32_t index = response.index();
  Said& said = said_[index];
  if (response.has_final()) {
    Complete(index, response.final(), out->mutable_complete());
    return true;
  }
  const v1::Delta& delta = response.delta();
  said.ids.insert(said.ids.end(), delta.token_ids().begin(), delta.token_ids().end());
  if (!request_->stream()) {
    AddLogprobs(delta, &said.logprobs);
    AddPromptLogprobs(delta, &said.prompt_logprobs);
    return false;
  }
  vllm::GenerateStreamChunk* chunk = out->mutable_chunk();
  chunk->set_index(index);
  *chunk->mutable_token_ids() = delta.token_ids();
  chunk->set_prompt_tokens(request_->tokenized().input_ids_size());
  chunk->set_completion_tokens(delta.token_ids_size());
  if (request_->sampling_params().has_logprobs()) {
    AddLogprobs(delta, chunk->mutable_output_logprobs());
  }
  if (!delta.prompt_logprobs().empty()) {
    AddPromptLogprobs(delta, chunk->mutable_input_logprobs());
  }
  return true;
}

void VllmOutput::AddLogprobs(const v1::Delta& delta, vllm::OutputLogProbs* out) const {
  if (!request_->sampling_params().has_logprobs()) return;
  for (const v1::TokenLogprobs& token : delta.logprobs()) {
    out->add_token_logprobs(token.logprob());
    out->add_token_ids(token.token_id());
    AddTop(token, request_->sampling_params().logprobs(), out->add_top_logprobs());
  }
}

void VllmOutput::AddPromptLogprobs(const v1::Delta& delta, vllm::InputLogProbs* out) const {
  if (delta.prompt_logprobs().empty()) return;
  if (out->token_ids().empty()) {
    // The first token has no log-probability; here it is in the list all the same.
    out->add_token_logprobs();
    out->add_token_ids(request_->tokenized().input_ids(0));
    out->add_top_logprobs();
  }
  for (const v1::TokenLogprobs& token : delta.prompt_logprobs()) {
    out->add_token_logprobs()->set_value(token.logprob());
    out->add_token_ids(token.token_id());
    AddTop(token, request_->sampling_params().prompt_logprobs(), out->add_top_logprobs());
  }
}

void VllmOutput::Complete(uint32_t index, const v1::Final& final, vllm::GenerateComplete* out) {
  Said said = std::move(said_[index]);
  out->set_index(index);
  out->mutable_output_ids()->Assign(said.ids.begin(), said.ids.end());
  out->set_finish_reason(VllmFinishReason(final.finish_reason()));
  out->set_prompt_tokens(final.usage().prompt_tokens());
  out->set_completion_tokens(final.usage().generated_tokens());
  out->set_cached_tokens(final.usage().cached_tokens());
  if (final.has_stop_string()) out->set_matched_stop_str(final.stop_string());
  if (final.has_stop_token_id()) out->set_matched_token_id(final.stop_token_id());
  if (!said.logprobs.token_ids().empty()) *out->mutable_output_logprobs() = said.logprobs;
  if (!said.prompt_logprobs.token_ids().empty()) {
    *out->mutable_input_logprobs() = said.prompt_logprobs;
  }
}

}  // namespace skim
