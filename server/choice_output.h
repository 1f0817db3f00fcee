// What one choice has said so far: turns sampled tokens into the text, ids and
// log-probabilities of deltas, and notices stop tokens and stop strings. One thread at a
// time (a stream's serial task).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/sampling_params.h"
#include "server/stop_matcher.h"
#include "skim/v1/inference.pb.h"
#include "text/tokenizer.h"

namespace skim {

struct OutputOptions {
  bool text = true;
  bool token_ids = true;
  bool logprobs = false;
  bool include_stop = false;
  bool skip_special = true;
  std::vector<std::string> stop;  // stop strings
};

class ChoiceOutput {
 public:
  // Borrows both; they outlive this.
  ChoiceOutput(const OutputOptions* options, const SamplingParams* sampling,
               const Tokenizer* tokenizer);

  // The next token. Ignored after a stop string: the loop may have run a little further.
  void Add(const SampledToken& token, v1::Delta* delta);
  void AddPromptLogprobs(const std::vector<SampledToken>& logprobs, v1::Delta* delta) const;
  // The loop has ended the sequence: gives out text that was held back.
  void End(v1::Delta* delta);

  bool stop_string_found() const { return matcher_.matched().has_value(); }
  int32_t generated_tokens() const { return generated_tokens_; }
  // Sets matched_stop, if this choice has met one.
  void ReportStop(v1::Final* final) const;

 private:
  bool IsStopToken(TokenId token) const;
  void AddText(TokenId token, v1::Delta* delta);
  void FillLogprobs(const SampledToken& token, v1::TokenLogprobs* out) const;

  const OutputOptions* const options_;
  const SamplingParams* const sampling_;
  const Tokenizer* const tokenizer_;
  const std::unique_ptr<TextStream> stream_;  // null when nobody needs the text
  StopMatcher matcher_;
  TokenId stop_token_ = kNoToken;
  int32_t generated_tokens_ = 0;
};

}  // namespace skim
