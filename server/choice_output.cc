#include "server/choice_output.h"

#include <algorithm>

namespace skim {

ChoiceOutput::ChoiceOutput(const OutputOptions* options, const SamplingParams* sampling,
                           const Tokenizer* tokenizer)
    : options_(options),
      sampling_(sampling),
      tokenizer_(tokenizer),
      stream_(options->text || !options->stop.empty() ? tokenizer->NewStream(options->skip_special)
                                                      : nullptr),
      matcher_(options->stop, options->include_stop) {}

void ChoiceOutput::Add(const SampledToken& token, v1::Delta* delta) {
  if (stop_string_found()) return;
  ++generated_tokens_;
  if (options_->token_ids) delta->add_token_ids(static_cast<uint32_t>(token.token));
  if (options_->logprobs) FillLogprobs(token, delta->add_logprobs());
  if (IsStopToken(token.token)) stop_token_ = token.token;
  if (stream_ != nullptr) AddText(token.token, delta);
}

void ChoiceOutput::AddText(TokenId token, v1::Delta* delta) {
  if (token == stop_token_ && !options_->include_stop) return;
  const std::string piece = stream_->Push(token);
  const std::string certain = generated_tokens_ <= sampling_->min_tokens
                                  ? matcher_.PassThrough(piece)
                                  : matcher_.Push(piece);
  if (options_->text) delta->mutable_text()->append(certain);
}

void ChoiceOutput::AddPromptLogprobs(const std::vector<SampledToken>& logprobs,
                                     v1::Delta* delta) const {
  for (const SampledToken& token : logprobs) FillLogprobs(token, delta->add_prompt_logprobs());
}

void ChoiceOutput::End(v1::Delta* delta) {
  if (stream_ == nullptr || stop_string_found()) return;
  std::string rest = matcher_.Push(stream_->Flush());
  if (!stop_string_found()) rest += matcher_.Flush();
  if (options_->text) delta->mutable_text()->append(rest);
}

void ChoiceOutput::ReportStop(v1::Final* final) const {
  if (stop_string_found()) {
    final->set_stop_string(*matcher_.matched());
  } else if (stop_token_ != kNoToken) {
    final->set_stop_token_id(static_cast<uint32_t>(stop_token_));
  }
}

bool ChoiceOutput::IsStopToken(TokenId token) const {
  // Sorted; and before min_tokens the sampler cannot draw one.
  return std::ranges::binary_search(sampling_->stop_tokens, token);
}

void ChoiceOutput::FillLogprobs(const SampledToken& token, v1::TokenLogprobs* out) const {
  out->set_token_id(static_cast<uint32_t>(token.token));
  out->set_logprob(token.logprob);
  out->set_text(tokenizer_->TokenText(token.token));
  for (const TokenLogprob& top : token.top) {
    v1::TopToken* entry = out->add_top();
    entry->set_token_id(static_cast<uint32_t>(top.token));
    entry->set_logprob(top.logprob);
    entry->set_text(tokenizer_->TokenText(top.token));
  }
}

}  // namespace skim
