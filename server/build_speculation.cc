#include "server/build_speculation.h"

#include <algorithm>
#include <string>

#include "base/status_macros.h"
#include "scheduler/answer_store.h"
#include "server/rpc_status.h"
#include "server/weight_formats.h"

namespace skim {
namespace {

absl::Status Unimplemented(const std::string& field, const std::string& what) {
  return FieldError(absl::StatusCode::kUnimplemented, field, what);
}

// Options of a drafter where there is none.
absl::Status CheckOff(const v1::Speculation& speculation) {
  if (speculation.has_max_draft_tokens()) {
    return InvalidField("speculation.max_draft_tokens", "nothing is drafted");
  }
  if (speculation.has_stop_confidence()) {
    return InvalidField("speculation.stop_confidence", "nothing is drafted");
  }
  return absl::OkStatus();
}

absl::Status FillCommon(const v1::Speculation& speculation, const RequestLimits& limits,
                        SpeculationPolicy* policy) {
  const bool automatic = policy->drafter == DrafterKind::kAuto;  // uses no more than pay
  policy->max_drafts =
      automatic ? limits.max_draft_tokens : std::min(policy->max_drafts, limits.max_draft_tokens);
  if (speculation.has_max_draft_tokens()) {
    const uint32_t asked = speculation.max_draft_tokens();
    if (asked < 1 || asked > static_cast<uint32_t>(limits.max_draft_tokens)) {
      return InvalidField("speculation.max_draft_tokens",
                          "must be in [1, " + std::to_string(limits.max_draft_tokens) + "]");
    }
    policy->max_drafts = static_cast<int32_t>(asked);
  }
  if (speculation.has_stop_confidence()) {
    const float confidence = speculation.stop_confidence();
    if (!(confidence >= 0 && confidence <= 1)) {
      return InvalidField("speculation.stop_confidence", "must be in [0, 1]");
    }
    if (policy->drafter == DrafterKind::kLookup) {
      return InvalidField("speculation.stop_confidence", "what is looked up has no probability");
    }
    policy->stop_confidence = confidence;
  }
  return absl::OkStatus();
}

absl::Status FillSharedStore(const std::string& field, const RequestLimits& limits,
                             SpeculationPolicy* policy) {
  policy->shared_store = true;
  if (limits.answer_store_bytes > 0) return absl::OkStatus();
  return Unimplemented(field, "no answers are stored here");
}

absl::Status FillLookup(const v1::Speculation::Lookup& lookup, const RequestLimits& limits,
                        SpeculationPolicy* policy) {
  if (lookup.has_max_ngram()) {
    if (lookup.max_ngram() < 1 || lookup.max_ngram() > static_cast<uint32_t>(kMaxNgram)) {
      return InvalidField("speculation.lookup.max_ngram",
                          "must be in [1, " + std::to_string(kMaxNgram) + "]");
    }
    policy->max_ngram = static_cast<int32_t>(lookup.max_ngram());
    policy->min_ngram = std::min(policy->min_ngram, policy->max_ngram);
  }
  if (lookup.has_min_ngram()) {
    if (lookup.min_ngram() < 1 || lookup.min_ngram() > static_cast<uint32_t>(policy->max_ngram)) {
      return InvalidField("speculation.lookup.min_ngram",
                          "must be in [1, " + std::to_string(policy->max_ngram) + "]");
    }
    policy->min_ngram = static_cast<int32_t>(lookup.min_ngram());
  }
  if (!lookup.shared_store()) return absl::OkStatus();
  if (policy->max_ngram < AnswerSlab::kMinNgram || policy->min_ngram > AnswerSlab::kMaxNgram) {
    return InvalidField("speculation.lookup.shared_store",
                        "stored answers are looked up by " + std::to_string(AnswerSlab::kMinNgram) +
                            " to " + std::to_string(AnswerSlab::kMaxNgram) + " tokens");
  }
  return FillSharedStore("speculation.lookup.shared_store", limits, policy);
}

// The first layer at which the prompt is cut; all layers if it is not.
int32_t FirstCut(const PrefillPolicy& prefill, const ModelInfo& info) {
  for (size_t b = 0; b < prefill.keep.size(); ++b) {
    if (prefill.keep[b] < 1) return info.lazy.boundaries[b];
  }
  return info.layers;
}

absl::Status FillSkipped(const v1::Speculation::SelfDraft& self, SpeculationPolicy* policy) {
  const std::string field = "speculation.self.skipped_layers";
  // Bounded before anything is copied; distinct ones below the exit are fewer than all.
  if (self.skipped_layers_size() >= policy->exit_layer) {
    return InvalidField(field,
                        "must leave a layer of the draft's " + std::to_string(policy->exit_layer));
  }
  std::vector<int16_t>& skipped = policy->skipped_layers;
  for (const uint32_t layer : self.skipped_layers()) {
    if (layer >= static_cast<uint32_t>(policy->exit_layer)) {
      return InvalidField(field, "must be in [0, " + std::to_string(policy->exit_layer - 1) + "]");
    }
    skipped.push_back(static_cast<int16_t>(layer));
  }
  std::ranges::sort(skipped);
  if (std::ranges::adjacent_find(skipped) != skipped.end()) {
    return InvalidField(field, "names a layer twice");
  }
  return absl::OkStatus();
}

absl::Status FillSelf(const v1::Speculation::SelfDraft& self, const ModelInfo& info,
                      WeightFormat weights, int32_t first_cut, SpeculationPolicy* policy) {
  const WeightFormat smallest =
      std::ranges::min_element(info.weights, {}, &FormatInfo::bytes)->format;
  SKIM_ASSIGN_OR_RETURN(policy->draft_format,
                        ChooseWeights(self.weights(), smallest, "speculation.self.weights", info));
  policy->exit_layer = info.layers;
  if (self.has_exit_layer()) {
    if (self.exit_layer() < 1 || self.exit_layer() > static_cast<uint32_t>(info.layers)) {
      return InvalidField("speculation.self.exit_layer",
                          "must be in [1, " + std::to_string(info.layers) + "]");
    }
    policy->exit_layer = static_cast<int32_t>(self.exit_layer());
  }
  if (policy->exit_layer > first_cut) {
    return InvalidField(
        "speculation.self.exit_layer",
        "must be at most " + std::to_string(first_cut) + ", where this prompt is cut first");
  }
  SKIM_RETURN_IF_ERROR(FillSkipped(self, policy));
  if (policy->exit_layer == info.layers && policy->draft_format == weights &&
      policy->skipped_layers.empty()) {
    return InvalidField("speculation.self",
                        "all layers in the request's own weight format save nothing; give an "
                        "exit_layer, skipped_layers or weights of fewer bytes");
  }
  return absl::OkStatus();
}

// The request's own text, stored answers, the draft head, the draft model, and every format of
// fewer bytes than its own: all layers run in those, so they cannot draft for a prompt that is cut.
absl::Status FillAuto(const v1::Speculation::Auto& asked, const ModelInfo& info,
                      WeightFormat weights, int32_t first_cut, const RequestLimits& limits,
                      SpeculationPolicy* policy) {
  const auto allowed = [&](DrafterKind kind) {
    return std::ranges::find(limits.drafters, kind) != limits.drafters.end();
  };
  policy->may_look_up = allowed(DrafterKind::kLookup);
  policy->may_use_head = allowed(DrafterKind::kHead) && info.draft_head_bytes > 0;
  policy->may_use_draft_model = allowed(DrafterKind::kDraftModel) && info.draft_model_bytes > 0;
  if (asked.shared_store()) {
    const std::string field = "speculation.auto.shared_store";
    if (!policy->may_look_up) return Unimplemented(field, "this server does not look up text");
    SKIM_RETURN_IF_ERROR(FillSharedStore(field, limits, policy));
  }
  if (!allowed(DrafterKind::kSelf) || first_cut < info.layers) return absl::OkStatus();
  const size_t own = std::ranges::find(info.weights, weights, &FormatInfo::format)->bytes;
  for (const FormatInfo& format : info.weights) {
    if (format.bytes < own) policy->draft_formats.push_back(format.format);
  }
  return absl::OkStatus();
}

std::string FieldOf(DrafterKind kind) {
  std::string name(DrafterName(kind));
  std::ranges::replace(name, '-', '_');
  return "speculation." + name;
}

absl::StatusOr<DrafterKind> KindOf(const v1::Speculation& speculation,
                                   const RequestLimits& limits) {
  DrafterKind kind = DrafterKind::kNone;
  switch (speculation.drafter_case()) {
    case v1::Speculation::DRAFTER_NOT_SET:
    case v1::Speculation::kOff:
      return kind;
    case v1::Speculation::kSelf:
      kind = DrafterKind::kSelf;
      break;
    case v1::Speculation::kLookup:
      kind = DrafterKind::kLookup;
      break;
    case v1::Speculation::kHead:
      kind = DrafterKind::kHead;
      break;
    case v1::Speculation::kDraftModel:
      kind = DrafterKind::kDraftModel;
      break;
    case v1::Speculation::kAuto:
      if (!limits.drafters.empty()) return DrafterKind::kAuto;
      return Unimplemented("speculation.auto", "this server serves no drafters");
  }
  if (std::ranges::find(limits.drafters, kind) == limits.drafters.end()) {
    return Unimplemented(FieldOf(kind), "this server does not serve that drafter");
  }
  return kind;
}

}  // namespace

absl::Status CheckDrafterServed(const v1::Speculation& speculation, const RequestLimits& limits) {
  return KindOf(speculation, limits).status();
}

absl::StatusOr<SpeculationPolicy> BuildSpeculation(const v1::GenerateRequest& request,
                                                   const ServedModel& model, WeightFormat weights,
                                                   const PrefillPolicy& prefill) {
  const v1::Speculation& speculation = request.speculation();
  SpeculationPolicy policy;
  SKIM_ASSIGN_OR_RETURN(policy.drafter, KindOf(speculation, model.limits));
  if (!policy.on()) {
    SKIM_RETURN_IF_ERROR(CheckOff(speculation));
    return policy;
  }
  SKIM_RETURN_IF_ERROR(FillCommon(speculation, model.limits, &policy));
  const int32_t first_cut = FirstCut(prefill, *model.info);
  if (first_cut < model.info->layers && Revives(prefill.decode)) {
    return InvalidField(
        "speculation",
        "a pruned prompt is speculated on in decode_mode static or phantom only: in "
        "the other modes every token may revive others");
  }
  if (policy.drafter == DrafterKind::kLookup) {
    SKIM_RETURN_IF_ERROR(FillLookup(speculation.lookup(), model.limits, &policy));
  } else if (policy.drafter == DrafterKind::kHead) {
    if (model.info->draft_head_bytes == 0) {
      return Unimplemented("speculation.head",
                           "there is no skim_draft_head.safetensors beside the model; "
                           "`./run train-head` makes one");
    }
  } else if (policy.drafter == DrafterKind::kDraftModel) {
    if (model.info->draft_model_bytes == 0) {
      return Unimplemented("speculation.draft_model",
                           "this server has no draft model; skimd --draft-model gives it one");
    }
  } else if (policy.drafter == DrafterKind::kAuto) {
    SKIM_RETURN_IF_ERROR(
        FillAuto(speculation.auto_(), *model.info, weights, first_cut, model.limits, &policy));
  } else {
    SKIM_RETURN_IF_ERROR(FillSelf(speculation.self(), *model.info, weights, first_cut, &policy));
  }
  return policy;
}

}  // namespace skim
