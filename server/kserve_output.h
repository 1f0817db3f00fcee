// v1::GenerateResponse -> inference.ModelInferResponse: one for each delta and each final, or one
// in all. A translator of a GenerateStream's kind.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "server/kserve_request.h"

namespace skim {

class KserveOutput {
 public:
  explicit KserveOutput(KserveCall call);

  const v1::GenerateRequest& request() const { return call_.request; }

  // False: nothing is to be sent for it.
  bool Translate(v1::GenerateResponse response, kserve::ModelInferResponse* out);
  absl::Status TranslateError(const absl::Status& status) const { return ToKserveFields(status); }

 private:
  // Of one choice; what has been sent is taken out.
  struct Choice {
    std::string text;
    std::string finish_reason = "None";
    float cumulative_logprob = 0;
    std::vector<v1::TokenLogprobs> logprobs;
    uint32_t tokens = 0;
  };

  void Take(const v1::GenerateResponse& response);
  void Fill(kserve::ModelInferResponse* out);
  bool Wants(KserveTensor tensor) const { return call_.wanted[static_cast<size_t>(tensor)]; }

  const KserveCall call_;
  std::vector<Choice> choices_;
  uint32_t prompt_tokens_ = 0;
  size_t ended_ = 0;
};

}  // namespace skim
