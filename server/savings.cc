#include "server/savings.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "server/rpc_status.h"
#include "server/weight_formats.h"

namespace skim {
namespace {

// All words of a model; what a client sent is not repeated.
std::string Words(const ModelInfo& model) {
  std::string words;
  const auto add = [&](const std::string& word) {
    absl::StrAppend(&words, words.empty() ? "" : ", ", word);
  };
  for (const FormatInfo& weights : model.weights)
    add(std::string(WeightFormatName(weights.format)));
  for (const PruneProfile& profile : model.lazy.profiles) add(profile.name);
  return words;
}

absl::Status ApplyWord(const std::string& word, const ModelInfo& model, const std::string& field,
                       v1::GenerateRequest* request) {
  for (const FormatInfo& weights : model.weights) {
    if (WeightFormatName(weights.format) != word) continue;
    if (request->has_weights()) return InvalidField(field, "the weights are given twice");
    request->set_weights(ToProto(weights.format));
    return absl::OkStatus();
  }
  if (model.lazy.Find(word) == nullptr) {
    return FieldError(absl::StatusCode::kNotFound, field,
                      absl::StrCat("this model has no such savings; it has ", Words(model)));
  }
  if (request->has_prefill()) return InvalidField(field, "how to prune is given twice");
  request->mutable_prefill()->mutable_lazy()->set_profile(word);
  return absl::OkStatus();
}

}  // namespace

std::string NameWithSavings(const std::string& name, const std::string& savings) {
  return savings.empty() ? name : absl::StrCat(name, ":", savings);
}

absl::StatusOr<std::string> SavingsInName(const std::string& asked, const std::string& served,
                                          const std::string& field) {
  if (asked.empty() || asked == served) return std::string();
  const std::string prefix = served + ":";
  if (asked.starts_with(prefix) && asked.size() > prefix.size()) return asked.substr(prefix.size());
  // The name that was asked for is not echoed: it may be anything.
  return FieldError(absl::StatusCode::kNotFound, field,
                    absl::StrCat("is not served here; this server has ", served));
}

absl::Status ApplySavings(const std::string& savings, const ModelInfo& model,
                          const std::string& field, v1::GenerateRequest* request) {
  if (savings.empty()) return absl::OkStatus();
  const std::vector<std::string> words = absl::StrSplit(savings, '+');
  for (const std::string& word : words) {
    SKIM_RETURN_IF_ERROR(ApplyWord(word, model, field, request));
  }
  return absl::OkStatus();
}

}  // namespace skim
