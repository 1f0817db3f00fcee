// How a request wants its output guessed ahead of the model. What it is told does not depend
// on any of this (docs/architecture.md, G9): only when it is told does.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "kernels/weight.h"

namespace skim {

// Drafts of one round; so many and one more rows verify them.
inline constexpr int32_t kMaxDrafts = 16;
inline constexpr int32_t kMaxNgram = 8;

enum class DrafterKind : uint8_t { kNone, kLookup, kSelf, kHead, kDraftModel, kAuto };
inline constexpr int kDrafterKinds = 6;

// What drafts come from, told apart by what they cost and how often they are right: the request's
// text, the model's own layers in each weight format, its trained draft head, earlier answers, and
// a second model.
inline constexpr size_t kDraftSources = 4 + kWeightFormats;
inline constexpr size_t kTextSource = 0, kHeadSource = 1 + kWeightFormats,
                        kStoreSource = 2 + kWeightFormats, kDraftModelSource = 3 + kWeightFormats;
constexpr size_t SelfSource(WeightFormat format) { return 1 + static_cast<size_t>(format); }
constexpr bool IsSelf(size_t source) { return source > kTextSource && source < kHeadSource; }
constexpr WeightFormat FormatOfSelf(size_t source) {  // IsSelf
  return static_cast<WeightFormat>(source - 1);
}
// In metrics: all formats of the model's layers are one.
constexpr std::string_view SourceName(size_t source) {
  if (source == kHeadSource) return "head";
  if (source == kDraftModelSource) return "draft-model";
  return source == kTextSource ? "lookup" : source == kStoreSource ? "store" : "self";
}

constexpr std::string_view DrafterName(DrafterKind kind) {
  constexpr std::string_view kNames[kDrafterKinds] = {"none", "lookup",      "self",
                                                      "head", "draft-model", "auto"};
  return kNames[static_cast<int>(kind)];
}

constexpr std::optional<DrafterKind> DrafterOfName(std::string_view name) {
  for (int i = 0; i < kDrafterKinds; ++i) {
    if (DrafterName(static_cast<DrafterKind>(i)) == name) return static_cast<DrafterKind>(i);
  }
  return std::nullopt;
}

struct SpeculationPolicy {
  DrafterKind drafter = DrafterKind::kNone;
  int32_t max_drafts = 4;  // in a round, [1, kMaxDrafts]

  // kLookup: what followed the last n tokens where they stood before, the longest n first.
  int32_t min_ngram = 2;  // [1, max_ngram]
  int32_t max_ngram = 4;  // [min_ngram, kMaxNgram]
  // kLookup and kAuto: also in earlier answers of the same owner (answer_store.h), among which this
  // request's will be.
  bool shared_store = false;

  // kSelf: the model's own layers [0, exit_layer) and head, in a resident weight format. Below L
  // and in the request's format this is LayerSkip (arXiv 2404.16710); with all layers in a
  // smaller format, drafts by the low-bit copy of the model that verifies them.
  int32_t exit_layer = 0;  // [1, L]; with a pruned prompt at most the layer of its first cut
  WeightFormat draft_format = WeightFormat::kBf16;
  // Of [0, exit_layer), not all, ascending: left out of draft passes, in any format (Draft &
  // Verify, arXiv 2309.08168).
  std::vector<int16_t> skipped_layers;
  // kAuto: the sources it may choose from. The last: the whole model in these formats.
  bool may_look_up = true;
  bool may_use_head = false;
  bool may_use_draft_model = false;
  std::vector<WeightFormat> draft_formats;
  // Drafting stops behind a token that the draft gives less probability; [0, 1], 0: never.
  float stop_confidence = 0;

  bool uses_head() const {
    return drafter == DrafterKind::kHead || (drafter == DrafterKind::kAuto && may_use_head);
  }
  bool uses_draft_model() const {
    return drafter == DrafterKind::kDraftModel ||
           (drafter == DrafterKind::kAuto && may_use_draft_model);
  }
  bool on() const { return drafter != DrafterKind::kNone; }
};

}  // namespace skim
