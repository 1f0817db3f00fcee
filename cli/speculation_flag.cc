#include "cli/speculation_flag.h"

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "cli/weight_format_name.h"

namespace skim {
namespace {

constexpr absl::string_view kSkip = "skip=";

absl::Status Unknown(const std::string& text) {
  return absl::InvalidArgumentError(
      "--speculation: '" + text +
      "' is not off, auto, lookup, auto:shared, lookup:shared, head, draft-model, self or "
      "self:LAYERS:FORMAT:skip=A+B");
}

}  // namespace

absl::Status ParseSpeculation(const std::string& text, v1::Speculation* speculation) {
  const std::vector<std::string> parts = absl::StrSplit(text, ':');
  if (parts.size() == 1 && parts[0] == "off") {
    speculation->mutable_off();
    return absl::OkStatus();
  }
  const bool shared = parts.size() == 2 && parts[1] == "shared";
  if ((parts.size() == 1 || shared) && parts[0] == "auto") {
    v1::Speculation::Auto* automatic = speculation->mutable_auto_();
    if (shared) automatic->set_shared_store(true);
    return absl::OkStatus();
  }
  if ((parts.size() == 1 || shared) && parts[0] == "lookup") {
    v1::Speculation::Lookup* lookup = speculation->mutable_lookup();
    if (shared) lookup->set_shared_store(true);
    return absl::OkStatus();
  }
  if (parts.size() == 1 && parts[0] == "head") {
    speculation->mutable_head();
    return absl::OkStatus();
  }
  if (parts.size() == 1 && parts[0] == "draft-model") {
    speculation->mutable_draft_model();
    return absl::OkStatus();
  }
  if (parts.size() <= 4 && parts[0] == "self") {
    v1::Speculation::SelfDraft* self = speculation->mutable_self();
    size_t at = 1;
    uint32_t layers = 0;
    if (at < parts.size() && absl::SimpleAtoi(parts[at], &layers)) {
      self->set_exit_layer(layers);
      ++at;
    }
    if (at < parts.size()) {
      if (const auto format = ParseWeightFormat(parts[at])) {
        self->set_weights(*format);
        ++at;
      }
    }
    if (at < parts.size() && absl::StartsWith(parts[at], kSkip)) {
      for (const absl::string_view layer :
           absl::StrSplit(absl::StripPrefix(parts[at++], kSkip), '+')) {
        uint32_t skipped = 0;
        if (!absl::SimpleAtoi(layer, &skipped)) return Unknown(text);
        self->add_skipped_layers(skipped);
      }
    }
    if (at == parts.size()) return absl::OkStatus();
  }
  return Unknown(text);
}

}  // namespace skim
