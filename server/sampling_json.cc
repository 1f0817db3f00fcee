#include "server/sampling_json.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "base/status_macros.h"
#include "google/protobuf/descriptor.h"
#include "server/request_builder.h"
#include "server/rpc_status.h"

namespace skim {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;
using nlohmann::json;

struct OutputWord {
  std::string_view word;
  const char* field;  // of v1::Output
};

constexpr OutputWord kOutputWords[] = {
    {"logprobs", "logprobs"},
    {"skip_special_tokens", "skip_special_tokens"},
    {"include_stop_str_in_output", "include_stop"},
};

absl::Status WrongType(const std::string& field, const char* type) {
  return InvalidField(field, std::string("must be ") + type);
}

// What stands in quotes, or the number as JSON writes it: one reading serves both.
std::optional<std::string> Scalar(const json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_number() || value.is_boolean()) return value.dump();
  return std::nullopt;
}

template <typename T>
absl::StatusOr<T> ReadUnsigned(const json& value, const std::string& field) {
  T number = 0;
  const auto text = Scalar(value);
  if (!text || !absl::SimpleAtoi(*text, &number)) {
    return WrongType(field,
                     sizeof(T) == 4 ? "an integer, 0 to 2^32 - 1" : "an integer, 0 to 2^64 - 1");
  }
  return number;
}

absl::StatusOr<float> ReadFloat(const json& value, const std::string& field) {
  float number = 0;
  const auto text = Scalar(value);
  if (!text || !absl::SimpleAtof(*text, &number)) return WrongType(field, "a number");
  return number;
}

absl::StatusOr<bool> ReadBool(const json& value, const std::string& field) {
  const std::string text = absl::AsciiStrToLower(Scalar(value).value_or(""));
  if (text == "true") return true;
  if (text == "false") return false;
  return WrongType(field, "true or false");
}

absl::Status SetScalar(const FieldDescriptor* to, const json& value, const std::string& field,
                       Message* message) {
  const Reflection* reflection = message->GetReflection();
  switch (to->cpp_type()) {
    case FieldDescriptor::CPPTYPE_UINT32: {
      SKIM_ASSIGN_OR_RETURN(const uint32_t number, ReadUnsigned<uint32_t>(value, field));
      reflection->SetUInt32(message, to, number);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_UINT64: {
      SKIM_ASSIGN_OR_RETURN(const uint64_t number, ReadUnsigned<uint64_t>(value, field));
      reflection->SetUInt64(message, to, number);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_FLOAT: {
      SKIM_ASSIGN_OR_RETURN(const float number, ReadFloat(value, field));
      reflection->SetFloat(message, to, number);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_BOOL: {
      SKIM_ASSIGN_OR_RETURN(const bool yes, ReadBool(value, field));
      reflection->SetBool(message, to, yes);
      return absl::OkStatus();
    }
    default:
      return absl::InternalError(field + ": its type has no reader");
  }
}

absl::Status AddItem(const FieldDescriptor* to, const json& item, const std::string& field,
                     Message* message) {
  if (to->cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
    if (!item.is_string()) return WrongType(field, "a string");
    message->GetReflection()->AddString(message, to, item.get<std::string>());
    return absl::OkStatus();
  }
  SKIM_ASSIGN_OR_RETURN(const uint32_t number, ReadUnsigned<uint32_t>(item, field));
  message->GetReflection()->AddUInt32(message, to, number);
  return absl::OkStatus();
}

// A list, or one item in place of a list of one.
absl::Status AddItems(const FieldDescriptor* to, const json& value, const std::string& field,
                      Message* message) {
  if (!value.is_array()) return AddItem(to, value, field, message);
  for (size_t i = 0; i < value.size(); ++i) {
    SKIM_RETURN_IF_ERROR(AddItem(to, value[i], field + "[" + std::to_string(i) + "]", message));
  }
  return absl::OkStatus();
}

absl::Status ReadBiases(const json& value, const std::string& field, v1::Sampling* sampling) {
  if (!value.is_object()) return WrongType(field, "an object of token ids and numbers");
  for (const auto& [key, bias] : value.items()) {
    uint32_t token = 0;
    if (!absl::SimpleAtoi(key, &token))
      return WrongType(field, "an object whose keys are token ids");
    SKIM_ASSIGN_OR_RETURN((*sampling->mutable_logit_bias())[token],
                          ReadFloat(bias, field + "[" + std::to_string(token) + "]"));
  }
  return absl::OkStatus();
}

absl::Status ReadOne(const std::string& key, const json& value, const std::string& field,
                     v1::Sampling* sampling, v1::Output* output) {
  if (value.is_null()) return absl::OkStatus();
  if (key == "top_k" && Scalar(value) == "-1") return absl::OkStatus();
  if (key == "logit_bias") return ReadBiases(value, field, sampling);
  for (const OutputWord& word : kOutputWords) {
    if (word.word != key) continue;
    return SetScalar(output->GetDescriptor()->FindFieldByName(word.field), value, field, output);
  }
  const FieldDescriptor* to = sampling->GetDescriptor()->FindFieldByName(key);
  if (to == nullptr) {
    return FieldError(absl::StatusCode::kUnimplemented, field, "is not served here");
  }
  return to->is_repeated() ? AddItems(to, value, field, sampling)
                           : SetScalar(to, value, field, sampling);
}

}  // namespace

absl::Status ReadSamplingJson(const std::string& text, const std::string& field,
                              v1::Sampling* sampling, v1::Output* output) {
  const json parameters = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!parameters.is_object()) return InvalidField(field, "must be a JSON object");
  for (const auto& [key, value] : parameters.items()) {
    // A key that no log line could hold is not repeated.
    const std::string name = IsPrintableName(key) ? field + "." + key : field;
    SKIM_RETURN_IF_ERROR(ReadOne(key, value, name, sampling, output));
  }
  return absl::OkStatus();
}

}  // namespace skim
