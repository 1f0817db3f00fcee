#include "scheduler/drafter.h"

#include "scheduler/lookup_drafter.h"

namespace skim {
namespace {

class SelfDrafter final : public Drafter {
 public:
  explicit SelfDrafter(const DraftRow& row) : row_(row) {}
  DraftProposal Propose(std::span<const TokenId>, int32_t most) override {
    return {{}, most, row_};
  }

 private:
  const DraftRow row_;
};

}  // namespace

std::vector<std::unique_ptr<Drafter>> MakeDrafters(const SpeculationPolicy& policy,
                                                   int32_t layers) {
  std::vector<std::unique_ptr<Drafter>> drafters;
  const bool automatic = policy.drafter == DrafterKind::kAuto;
  if (policy.drafter == DrafterKind::kLookup || (automatic && policy.may_look_up)) {
    drafters.push_back(std::make_unique<LookupDrafter>(policy.min_ngram, policy.max_ngram));
  }
  if (policy.drafter == DrafterKind::kSelf) {
    drafters.push_back(
        std::make_unique<SelfDrafter>(DraftRow{policy.exit_layer, policy.draft_format}));
  }
  if (automatic) {
    for (const WeightFormat format : policy.draft_formats) {
      drafters.push_back(std::make_unique<SelfDrafter>(DraftRow{layers, format}));
    }
  }
  return drafters;
}

}  // namespace skim
