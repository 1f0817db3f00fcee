// The tensors of a ModelInferRequest: what this model takes and gives, and the values of a request.
// Both encodings of contents are read; what fits no tensor is refused by its name.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "inference/grpc_service.pb.h"

namespace skim {

namespace kserve = ::inference;

struct TensorSpec {
  const char* name;
  const char* datatype;
  int64_t size;  // of its only dimension; -1 = the number of choices
};

// Outputs, by their place in OutputSpecs().
enum class KserveTensor { kText, kFinishReason, kCumulativeLogprob, kLogprobs, kInput, kOutput };
inline constexpr size_t kKserveOutputs = 6;

std::span<const TensorSpec> InputSpecs();
std::span<const TensorSpec> OutputSpecs();

struct KserveInputs {
  std::string text;
  bool stream = false;
  std::optional<std::string> sampling_parameters;
  std::optional<bool> exclude_input;
  bool wanted[kKserveOutputs] = {};  // by KserveTensor
};

// Errors name the tensor where it is a known one, else its place in the message.
absl::StatusOr<KserveInputs> ReadTensors(const kserve::ModelInferRequest& request);

// Appends an output with its contents, in the raw encoding.
void AddBytesTensor(KserveTensor tensor, std::span<const std::string> values,
                    kserve::ModelInferResponse* out);
void AddFloatTensor(KserveTensor tensor, std::span<const float> values,
                    kserve::ModelInferResponse* out);
void AddUintTensor(KserveTensor tensor, std::span<const uint32_t> values,
                   kserve::ModelInferResponse* out);

}  // namespace skim
