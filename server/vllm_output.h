// v1::GenerateResponse -> vllm.grpc.engine.GenerateResponse: a delta becomes a chunk, a final
// becomes a `complete` with all ids. A GenerateStream's translator.
#pragma once

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "server/vllm_request.h"

namespace skim {

// "stop", "length" or "abort", as vLLM calls them.
const char* VllmFinishReason(v1::FinishReason reason);

class VllmOutput {
 public:
  // `request` lives as long as this; `translated` is what FromVllm made of it.
  VllmOutput(const vllm::GenerateRequest* request, v1::GenerateRequest translated)
      : request_(request), translated_(std::move(translated)) {}

  const v1::GenerateRequest& request() const { return translated_; }

  bool Translate(v1::GenerateResponse response, vllm::GenerateResponse* out);
  absl::Status TranslateError(const absl::Status& status) { return ToVllmFields(status); }

 private:
  // Of one choice.
  struct Said {
    std::vector<uint32_t> ids;
    // With stream = false they are sent at the end only.
    vllm::OutputLogProbs logprobs;
    vllm::InputLogProbs prompt_logprobs;
  };

  void AddLogprobs(const v1::Delta& delta, vllm::OutputLogProbs* out) const;
  void AddPromptLogprobs(const v1::Delta& delta, vllm::InputLogProbs* out) const;
  void Complete(uint32_t index, const v1::Final& final, vllm::GenerateComplete* out);

  const vllm::GenerateRequest* request_;
  v1::GenerateRequest translated_;
  std::map<uint32_t, Said> said_;
};

}  // namespace skim
