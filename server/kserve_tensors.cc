#include "server/kserve_tensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <iterator>
#include <vector>

#include "base/status_macros.h"
#include "server/rpc_status.h"

namespace skim {
namespace {

using InputTensor = kserve::ModelInferRequest::InferInputTensor;

constexpr char kBytes[] = "BYTES";
constexpr char kBool[] = "BOOL";

enum class Input { kText, kStream, kSampling, kExclude, kReturns };  // kReturns and all behind it

constexpr TensorSpec kInputs[] = {
    {"text_input", kBytes, 1},
    {"stream", kBool, 1},
    {"sampling_parameters", kBytes, 1},
    {"exclude_input_in_output", kBool, 1},
    {"return_finish_reason", kBool, 1},
    {"return_cumulative_logprob", kBool, 1},
    {"return_logprobs", kBool, 1},
    {"return_num_input_tokens", kBool, 1},
    {"return_num_output_tokens", kBool, 1},
};

// In the order of KserveTensor, and behind the first in that of the return_* above.
constexpr TensorSpec kOutputs[kKserveOutputs] = {
    {"text_output", kBytes, -1},        {"finish_reason", kBytes, -1},
    {"cumulative_logprob", "FP32", -1}, {"logprobs", kBytes, -1},
    {"num_input_tokens", "UINT32", 1},  {"num_output_tokens", "UINT32", -1},
};

std::string ListNames(std::span<const TensorSpec> specs) {
  std::string names;
  for (const TensorSpec& spec : specs)
    names += (names.empty() ? "" : ", ") + std::string(spec.name);
  return names;
}

std::optional<size_t> IndexOf(const std::string& name, std::span<const TensorSpec> specs) {
  const auto found =
      std::ranges::find_if(specs, [&](const TensorSpec& s) { return s.name == name; });
  if (found == specs.end()) return std::nullopt;
  return static_cast<size_t>(found - specs.begin());
}

uint32_t ReadLittleEndian(const std::string& raw) {
  uint32_t value = 0;
  for (int i = 3; i >= 0; --i) value = value << 8 | static_cast<unsigned char>(raw[i]);
  return value;
}

void AppendLittleEndian(uint32_t value, std::string* out) {
  for (int i = 0; i < 4; ++i) out->push_back(static_cast<char>(value >> (8 * i) & 0xff));
}

size_t CountContents(const kserve::InferTensorContents& c) {
  return size_t{0} + c.bool_contents_size() + c.int_contents_size() + c.int64_contents_size() +
         c.uint_contents_size() + c.uint64_contents_size() + c.fp32_contents_size() +
         c.fp64_contents_size() + c.bytes_contents_size();
}

// `raw` is null where the contents are typed.
absl::StatusOr<std::string> ReadBytes(const InputTensor& tensor, const std::string* raw) {
  if (raw == nullptr) {
    const kserve::InferTensorContents& contents = tensor.contents();
    if (contents.bytes_contents_size() != 1 || CountContents(contents) != 1) {
      return InvalidField(tensor.name(), "must hold one value, in bytes_contents");
    }
    return contents.bytes_contents(0);
  }
  if (raw->size() < 4 || ReadLittleEndian(*raw) != raw->size() - 4) {
    return InvalidField(tensor.name(),
                        "its raw contents must be a length of four bytes, little-endian, and as "
                        "many bytes; they have " +
                            std::to_string(raw->size()) + " bytes in all");
  }
  return raw->substr(4);
}

absl::StatusOr<bool> ReadBool(const InputTensor& tensor, const std::string* raw) {
  if (raw == nullptr) {
    const kserve::InferTensorContents& contents = tensor.contents();
    if (contents.bool_contents_size() != 1 || CountContents(contents) != 1) {
      return InvalidField(tensor.name(), "must hold one value, in bool_contents");
    }
    return contents.bool_contents(0);
  }
  if (raw->size() != 1 || static_cast<unsigned char>((*raw)[0]) > 1) {
    return InvalidField(tensor.name(), "its raw contents must be one byte, 0 or 1");
  }
  return (*raw)[0] != 0;
}

absl::Status CheckTensor(const InputTensor& tensor, const TensorSpec& spec, bool is_raw) {
  if (tensor.datatype() != spec.datatype) {
    return InvalidField(spec.name, std::string("must have the datatype ") + spec.datatype);
  }
  if (tensor.shape_size() != 1 || tensor.shape(0) != spec.size) {
    return InvalidField(spec.name, "must have the shape [1]");
  }
  if (!tensor.parameters().empty()) {
    return FieldError(absl::StatusCode::kUnimplemented, spec.name,
                      "has parameters; contents are taken from the message only");
  }
  if (is_raw && tensor.has_contents()) {
    return InvalidField(spec.name, "has contents beside raw_input_contents");
  }
  return absl::OkStatus();
}

absl::Status ReadTensor(const InputTensor& tensor, size_t index, const std::string* raw,
                        KserveInputs* out) {
  SKIM_RETURN_IF_ERROR(CheckTensor(tensor, kInputs[index], raw != nullptr));
  switch (static_cast<Input>(index)) {
    case Input::kText: {
      SKIM_ASSIGN_OR_RETURN(out->text, ReadBytes(tensor, raw));
      return absl::OkStatus();
    }
    case Input::kSampling: {
      SKIM_ASSIGN_OR_RETURN(out->sampling_parameters, ReadBytes(tensor, raw));
      return absl::OkStatus();
    }
    case Input::kStream: {
      SKIM_ASSIGN_OR_RETURN(out->stream, ReadBool(tensor, raw));
      return absl::OkStatus();
    }
    case Input::kExclude: {
      SKIM_ASSIGN_OR_RETURN(out->exclude_input, ReadBool(tensor, raw));
      return absl::OkStatus();
    }
    default: {
      SKIM_ASSIGN_OR_RETURN(const bool wanted, ReadBool(tensor, raw));
      out->wanted[index - static_cast<size_t>(Input::kReturns) + 1] |= wanted;
      return absl::OkStatus();
    }
  }
}

absl::Status ReadRequestedOutputs(const kserve::ModelInferRequest& request, KserveInputs* out) {
  out->wanted[static_cast<size_t>(KserveTensor::kText)] = request.outputs().empty();
  for (int i = 0; i < request.outputs_size(); ++i) {
    const auto& output = request.outputs(i);
    const auto index = IndexOf(output.name(), kOutputs);
    if (!index) {
      return InvalidField("outputs[" + std::to_string(i) + "].name",
                          "is no output of this model; it has " + ListNames(kOutputs));
    }
    if (!output.parameters().empty()) {
      return FieldError(absl::StatusCode::kUnimplemented, output.name(),
                        "has parameters; outputs go into the message only, as they are");
    }
    out->wanted[*index] = true;
  }
  return absl::OkStatus();
}

void AddTensor(KserveTensor tensor, size_t size, std::string raw, kserve::ModelInferResponse* out) {
  const TensorSpec& spec = kOutputs[static_cast<size_t>(tensor)];
  auto* output = out->add_outputs();
  output->set_name(spec.name);
  output->set_datatype(spec.datatype);
  output->add_shape(static_cast<int64_t>(size));
  out->add_raw_output_contents(std::move(raw));
}

}  // namespace

std::span<const TensorSpec> InputSpecs() { return kInputs; }
std::span<const TensorSpec> OutputSpecs() { return kOutputs; }

absl::StatusOr<KserveInputs> ReadTensors(const kserve::ModelInferRequest& request) {
  const bool is_raw = !request.raw_input_contents().empty();
  if (is_raw && request.raw_input_contents_size() != request.inputs_size()) {
    return InvalidField("raw_input_contents", "must have one entry for each of the " +
                                                  std::to_string(request.inputs_size()) +
                                                  " inputs, or none");
  }
  KserveInputs out;
  bool given[std::size(kInputs)] = {};
  for (int i = 0; i < request.inputs_size(); ++i) {
    const InputTensor& tensor = request.inputs(i);
    const auto index = IndexOf(tensor.name(), kInputs);
    if (!index) {
      return InvalidField("inputs[" + std::to_string(i) + "].name",
                          "is no input of this model; it has " + ListNames(kInputs));
    }
    if (std::exchange(given[*index], true)) return InvalidField(tensor.name(), "is given twice");
    const std::string* raw = is_raw ? &request.raw_input_contents(i) : nullptr;
    SKIM_RETURN_IF_ERROR(ReadTensor(tensor, *index, raw, &out));
  }
  if (!given[static_cast<size_t>(Input::kText)]) return InvalidField("text_input", "is missing");
  SKIM_RETURN_IF_ERROR(ReadRequestedOutputs(request, &out));
  return out;
}

void AddBytesTensor(KserveTensor tensor, std::span<const std::string> values,
                    kserve::ModelInferResponse* out) {
  std::string raw;
  for (const std::string& value : values) {
    AppendLittleEndian(static_cast<uint32_t>(value.size()), &raw);
    raw += value;
  }
  AddTensor(tensor, values.size(), std::move(raw), out);
}

void AddFloatTensor(KserveTensor tensor, std::span<const float> values,
                    kserve::ModelInferResponse* out) {
  std::string raw;
  for (const float value : values) AppendLittleEndian(std::bit_cast<uint32_t>(value), &raw);
  AddTensor(tensor, values.size(), std::move(raw), out);
}

void AddUintTensor(KserveTensor tensor, std::span<const uint32_t> values,
                   kserve::ModelInferResponse* out) {
  std::string raw;
  for (const uint32_t value : values) AppendLittleEndian(value, &raw);
  AddTensor(tensor, values.size(), std::move(raw), out);
}

}  // namespace skim
