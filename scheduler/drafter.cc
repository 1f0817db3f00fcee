#include "scheduler/drafter.h"

#include "scheduler/lookup_drafter.h"

namespace skim {
namespace {

class SelfDrafter final : public Drafter {
 public:
  explicit SelfDrafter(const DraftRow& row) : row_(row) {}
  DraftProposal Propose(std::span<const TokenId>, int32_t most) override {
    return {DrafterKind::kSelf, {}, most, row_};
  }

 private:
  const DraftRow row_;
};

}  // namespace

std::unique_ptr<Drafter> MakeDrafter(const SpeculationPolicy& policy) {
  switch (policy.drafter) {
    case DrafterKind::kNone:
      return nullptr;
    case DrafterKind::kLookup:
      return std::make_unique<LookupDrafter>(policy.min_ngram, policy.max_ngram);
    case DrafterKind::kSelf:
      return std::make_unique<SelfDrafter>(DraftRow{policy.exit_layer, policy.draft_format});
  }
  return nullptr;
}

}  // namespace skim
