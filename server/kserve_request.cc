#include "server/kserve_request.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/status_macros.h"
#include "server/rpc_status.h"
#include "server/sampling_json.h"
#include "server/unknown_fields.h"

namespace skim {
namespace {

// What Triton's vLLM backend takes where sampling_parameters are silent.
constexpr uint32_t kDefaultMaxTokens = 16;
constexpr float kDefaultTemperature = 1;

constexpr char kSampling[] = "sampling_parameters";

constexpr FieldName kFieldNames[] = {
    {"output.", "sampling_parameters."},
    {"sampling.", "sampling_parameters."},
    {"text", "text_input"},
    {"model", "model_name"},
    {"request_id", "id"},
};

absl::Status CheckParameters(const kserve::ModelInferRequest& request) {
  for (const auto& [name, value] : request.parameters()) {
    if (name == "triton_enable_empty_final_response" && value.has_bool_param()) continue;
    return FieldError(absl::StatusCode::kUnimplemented, "parameters",
                      "only triton_enable_empty_final_response is served; sampling_parameters is "
                      "a tensor");
  }
  return absl::OkStatus();
}

bool Wants(const KserveInputs& inputs, KserveTensor tensor) {
  return inputs.wanted[static_cast<size_t>(tensor)];
}

}  // namespace

absl::Status CheckKserveVersion(const std::string& field, const std::string& version) {
  if (version.empty() || version == kKserveVersion) return absl::OkStatus();
  return FieldError(absl::StatusCode::kNotFound, field,
                    std::string("the only version is ") + kKserveVersion);
}

absl::StatusOr<KserveCall> FromKserve(const kserve::ModelInferRequest& request, bool streamable) {
  SKIM_RETURN_IF_ERROR(CheckNoUnknownFields(request));
  SKIM_RETURN_IF_ERROR(CheckKserveVersion("model_version", request.model_version()));
  SKIM_RETURN_IF_ERROR(CheckParameters(request));
  SKIM_ASSIGN_OR_RETURN(KserveInputs inputs, ReadTensors(request));
  if (inputs.stream && !streamable) {
    return InvalidField("stream", "only ModelStreamInfer can stream");
  }
  const bool prepend = !inputs.exclude_input.value_or(inputs.stream);
  if (prepend && inputs.stream) {
    return InvalidField("exclude_input_in_output", "must not be false with `stream`");
  }

  KserveCall call;
  v1::GenerateRequest& out = call.request;
  out.set_model(request.model_name());
  out.set_request_id(request.id());
  out.set_parse_special_tokens(true);
  v1::Sampling* sampling = out.mutable_sampling();
  v1::Output* output = out.mutable_output();
  if (inputs.sampling_parameters.has_value()) {
    SKIM_RETURN_IF_ERROR(
        ReadSamplingJson(*inputs.sampling_parameters, kSampling, sampling, output));
  }
  if (!sampling->has_max_tokens()) sampling->set_max_tokens(kDefaultMaxTokens);
  if (!sampling->has_temperature()) sampling->set_temperature(kDefaultTemperature);
  output->set_text(Wants(inputs, KserveTensor::kText));
  // They are counted.
  output->set_token_ids(true);
  call.logprobs_wanted = output->has_logprobs();
  if (Wants(inputs, KserveTensor::kCumulativeLogprob) && !output->has_logprobs()) {
    output->set_logprobs(0);
  }
  call.stream = inputs.stream;
  std::ranges::copy(inputs.wanted, call.wanted);
  if (prepend) call.prepended = inputs.text;
  out.set_text(std::move(inputs.text));
  return call;
}

absl::Status ToKserveFields(const absl::Status& status) { return RenameField(status, kFieldNames); }

}  // namespace skim
