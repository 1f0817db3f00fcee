#include "scheduler/drafter.h"

#include "scheduler/lookup_drafter.h"

namespace skim {
namespace {

class PassDrafter final : public Drafter {
 public:
  explicit PassDrafter(const DraftRow& row) : row_(row) {}
  DraftProposal Propose(std::span<const TokenId>, int32_t most) override {
    return {{}, most, row_};
  }

 private:
  const DraftRow row_;
};

class StoreDrafter final : public Drafter {
 public:
  StoreDrafter(const SpeculationPolicy& policy, const DraftContext& context)
      : min_ngram_(policy.min_ngram),
        max_ngram_(policy.max_ngram),
        answers_(*context.answers),
        owner_(context.owner) {}
  DraftProposal Propose(std::span<const TokenId> tokens, int32_t most) override {
    DraftProposal proposal;
    proposal.tokens = answers_.Continue(owner_, tokens, min_ngram_, max_ngram_, most);
    proposal.stored = true;
    return proposal;
  }

 private:
  const int32_t min_ngram_, max_ngram_;
  AnswerStore& answers_;
  const AnswerOwner owner_;
};

}  // namespace

std::vector<std::unique_ptr<Drafter>> MakeDrafters(const SpeculationPolicy& policy,
                                                   const DraftContext& context) {
  std::vector<std::unique_ptr<Drafter>> drafters;
  const bool automatic = policy.drafter == DrafterKind::kAuto;
  if (policy.drafter == DrafterKind::kLookup || (automatic && policy.may_look_up)) {
    drafters.push_back(std::make_unique<LookupDrafter>(policy.min_ngram, policy.max_ngram));
  }
  if (policy.shared_store) drafters.push_back(std::make_unique<StoreDrafter>(policy, context));
  if (policy.drafter == DrafterKind::kSelf) {
    drafters.push_back(std::make_unique<PassDrafter>(DraftRow{
        policy.exit_layer, policy.draft_format, PlanModel::kServed, policy.skipped_layers}));
  }
  if (policy.uses_head()) drafters.push_back(std::make_unique<PassDrafter>(DraftRow{}));
  if (policy.uses_draft_model() && context.draft_model.any()) {
    drafters.push_back(std::make_unique<PassDrafter>(
        DraftRow{context.draft_model.layers, context.draft_model.format, PlanModel::kDraft}));
  }
  if (automatic) {
    for (const WeightFormat format : policy.draft_formats) {
      drafters.push_back(std::make_unique<PassDrafter>(DraftRow{context.layers, format}));
    }
  }
  return drafters;
}

}  // namespace skim
