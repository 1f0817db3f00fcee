#include "server/savings.h"

#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "server/build_prefill.h"
#include "server/build_speculation.h"
#include "server/rpc_status.h"
#include "server/weight_formats.h"

namespace skim {
namespace {

// All words of a model; what a client sent is not repeated.
std::string Words(const ServedModel& model) {
  std::string words;
  const auto add = [&](std::string_view word) {
    absl::StrAppend(&words, words.empty() ? "" : ", ", std::string(word));
  };
  for (const FormatInfo& weights : model.info->weights) add(WeightFormatName(weights.format));
  for (const PruneProfile& profile : model.info->lazy.profiles) {
    if (model.info->lazy.Serves(profile)) add(profile.name);
  }
  for (const DrafterKind kind : model.drafters()) add(DrafterName(kind));
  return words;
}

// "self", "self-8", "self-int8" or "self-8-int8", split.
bool ParseSelf(std::span<const std::string> parts, v1::Speculation::SelfDraft* self) {
  size_t at = 1;
  if (uint32_t layers = 0; at < parts.size() && absl::SimpleAtoi(parts[at], &layers)) {
    self->set_exit_layer(layers);
    ++at;
  }
  if (at < parts.size()) {
    const std::optional<WeightFormat> format = WeightFormatOfName(parts[at++]);
    if (!format) return false;
    self->set_weights(ToProto(*format));
  }
  return at == parts.size();
}

// "lookup" or "lookup-shared", split.
template <typename Drafter>
bool ParseShared(std::span<const std::string> parts, Drafter* drafter) {
  if (parts.size() == 1) return true;
  drafter->set_shared_store(true);
  return parts.size() == 2 && parts[1] == "shared";
}

// False if the word is none for speculation.
bool ParseDrafter(const std::string& word, v1::Speculation* speculation) {
  const std::vector<std::string> parts = absl::StrSplit(word, '-');
  // Some names have a dash of their own.
  const std::optional<DrafterKind> whole = DrafterOfName(word);
  switch (whole ? *whole : DrafterOfName(parts[0]).value_or(DrafterKind::kNone)) {
    case DrafterKind::kNone:
      return false;
    case DrafterKind::kSelf:
      return ParseSelf(parts, speculation->mutable_self());
    case DrafterKind::kLookup:
      return ParseShared(parts, speculation->mutable_lookup());
    case DrafterKind::kHead:
      speculation->mutable_head();
      return parts.size() == 1;
    case DrafterKind::kDraftModel:
      speculation->mutable_draft_model();
      return true;
    case DrafterKind::kAuto:
      return ParseShared(parts, speculation->mutable_auto_());
  }
  return false;
}

absl::Status ApplyWord(const std::string& word, const ServedModel& model, const std::string& field,
                       v1::GenerateRequest* request) {
  for (const FormatInfo& weights : model.info->weights) {
    if (WeightFormatName(weights.format) != word) continue;
    if (request->has_weights()) return InvalidField(field, "the weights are given twice");
    request->set_weights(ToProto(weights.format));
    return absl::OkStatus();
  }
  if (model.info->lazy.Find(word) != nullptr) {
    if (request->has_prefill()) return InvalidField(field, "how to prune is given twice");
    request->mutable_prefill()->mutable_lazy()->set_profile(word);
    return absl::OkStatus();
  }
  v1::Speculation speculation;
  if (!ParseDrafter(word, &speculation)) {
    return FieldError(absl::StatusCode::kNotFound, field,
                      absl::StrCat("this model has no such savings; it has ", Words(model)));
  }
  if (request->has_speculation()) return InvalidField(field, "how to speculate is given twice");
  SKIM_RETURN_IF_ERROR(AtField(CheckDrafterServed(speculation, model.limits), field));
  *request->mutable_speculation() = std::move(speculation);
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

absl::Status ApplySavings(const std::string& savings, const ServedModel& model,
                          const std::string& field, v1::GenerateRequest* request) {
  if (savings.empty()) return absl::OkStatus();
  const std::vector<std::string> words = absl::StrSplit(savings, '+');
  for (const std::string& word : words) {
    SKIM_RETURN_IF_ERROR(ApplyWord(word, model, field, request));
  }
  return absl::OkStatus();
}

absl::Status CheckSavings(const std::string& savings, const ServedModel& model,
                          const std::string& field) {
  v1::GenerateRequest request;
  SKIM_RETURN_IF_ERROR(ApplySavings(savings, model, field, &request));
  SKIM_ASSIGN_OR_RETURN(
      const WeightFormat weights,
      ChooseWeights(request.weights(), model.info->weights.front().format, field, *model.info));
  const auto prefill = BuildPrefill(request, model, model.info->max_context);
  if (!prefill.ok()) return AtField(prefill.status(), field);
  return AtField(BuildSpeculation(request, model, weights, *prefill).status(), field);
}

}  // namespace skim
