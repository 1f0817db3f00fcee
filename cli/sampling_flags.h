// The flags of `generate` and `chat` that become fields of a GenerateRequest. A flag that is
// not given leaves its field unset: the server's default, never zero.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "skim/v1/inference.pb.h"

namespace skim {

class SamplingFlags {
 public:
  // `this` is written to when `command` parses, so it must outlive that.
  void Register(CLI::App* command);

  // Errors name the flag.
  absl::Status Fill(v1::GenerateRequest* request) const;

 private:
  std::optional<uint32_t> max_tokens_;
  std::optional<uint32_t> min_tokens_;
  std::optional<float> temperature_;
  std::optional<uint32_t> top_k_;
  std::optional<float> top_p_;
  std::optional<float> min_p_;
  std::optional<float> repetition_penalty_;
  std::optional<float> frequency_penalty_;
  std::optional<float> presence_penalty_;
  std::vector<std::string> logit_bias_;  // "ID=BIAS"
  std::optional<uint64_t> seed_;
  std::vector<std::string> stop_;
  std::vector<uint32_t> stop_token_ids_;
  bool ignore_eos_ = false;
  std::optional<int32_t> priority_;
  std::optional<std::string> tenant_;
  std::optional<std::string> cache_salt_;
  std::optional<uint32_t> time_limit_ms_;
  std::optional<std::string> request_id_;
  std::optional<std::string> weights_;
  std::optional<std::string> prefill_;
  std::vector<float> keep_ratio_;
  std::optional<std::string> speculation_;
  std::optional<uint32_t> max_draft_tokens_;
  std::optional<float> stop_confidence_;
};

}  // namespace skim
