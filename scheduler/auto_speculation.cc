#include "scheduler/auto_speculation.h"

#include <algorithm>
#include <bit>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

namespace skim {
namespace {

// Gain, as a logarithm of rates, that it takes to begin and to go on.
constexpr double kBegin = 0.04, kGoOn = 0.01;
// The account, in steps: what is there at first and at most, what each plain step adds, and what
// drafts that are not expected to pay leave there.
constexpr double kMostBalance = 8, kCredit = 0.01, kReserve = 2;
// Steps without drafts are what others are compared with: so many first, and one again after so
// many others for each there has been, up to a most. Times vary, so few of them mislead.
constexpr int32_t kPlainFirst = 6, kPlainAgain = 32, kPlainEvery = 512;
// Steps between those that are taken to learn what unlikely drafts are worth.
constexpr int32_t kTryEvery = 100;
// Of so many steps one whose draft passes are not put off, so that the time of each is seen.
constexpr int32_t kTimedEvery = 8;
// Rows that draft models first catch up with at a time: then twice as many as before.
constexpr int32_t kFirstCatchUp = 16, kMostCatchUp = 1 << 16;
// How fast what was accepted is forgotten: a request's text changes, the sum of all hardly does.
constexpr double kKeepCommon = 0.995;

// Of drafts of which nothing is known: rather too much than too little, since who is thought
// little of is never tried, and who is tried is soon known.
double Expected(size_t source) {
  constexpr std::array<double, kDraftSources> kExpected = {0.5,  0.95, 0.95, 0.95,
                                                           0.95, 0.5,  0.5,  0.9};
  return kExpected[source];
}

// If all rows were drawn from after the same work.
std::optional<PassKind> KindOf(const StepPlan& plan, int32_t layers) {
  const PlanSequence& first = plan.sequences[0];
  const auto by_draft_model = [](const PlanSequence& sequence) {
    return sequence.model == PlanModel::kDraft;
  };
  // Rows that are not drawn from are few there.
  if (std::ranges::all_of(plan.sequences, by_draft_model)) return kDraftModelPass;
  if (std::ranges::any_of(plan.sequences, by_draft_model)) return std::nullopt;
  const bool by_head = plan.ByHead(first);
  int32_t draws = 0;
  for (const PlanSequence& sequence : plan.sequences) {
    if (!by_head && sequence.weight_format != first.weight_format) return std::nullopt;
    if (!sequence.skipped.empty()) return std::nullopt;
    draws += sequence.draws;
  }
  const int32_t leave = by_head ? 0 : layers;
  const bool uniform = draws == plan.rows() &&
                       std::ranges::all_of(plan.enter, [](auto l) { return l == 0; }) &&
                       std::ranges::all_of(plan.leave, [&](auto l) { return l == leave; });
  if (!uniform) return std::nullopt;
  return by_head ? kHeadPass : PassOf(first.weight_format);
}

}  // namespace

AutoSpeculation::AutoSpeculation() : balance_(kMostBalance), catch_up_tried_(kFirstCatchUp) {
  acceptance_.fill(Acceptance(kKeepCommon));
}

DraftCandidate AutoSpeculation::CandidateOf(const Speculation& asking, WeightFormat format) const {
  DraftCandidate candidate{format, {}};
  for (const DraftProposal& proposal : asking.offers()) {
    const size_t source = proposal.source();
    DraftOffer& offer = candidate.offers.emplace_back();
    offer.passes = proposal.passes > 0;
    offer.pass = proposal.row.kind();
    offer.first_rows = proposal.first_rows;
    offer.most = proposal.size();
    double common = Expected(source), survival = 1;
    for (int32_t place = 0; place < offer.most; ++place) {
      common = acceptance_[source].At(place, common);
      survival *= asking.acceptance(source).At(place, common);
      offer.survival[place] = survival;
    }
  }
  return candidate;
}

void AutoSpeculation::Choose(std::span<Speculation* const> asking,
                             std::span<const WeightFormat> formats, const Load& load) {
  step_ = Step::kNone;
  decoding_ = load.decoding;
  sequences_ = std::accumulate(decoding_.begin(), decoding_.end(), 0);
  stake_ = 0;
  elapsed_ = extra_tokens_ = 0;
  const bool full = Saturated(decoding_, times_);
  may_catch_up_ =
      !load.prompts && !load.others_draft && balance_ > kReserve && sequences_ > 0 && !full;
  if (asking.empty() || load.prompts) return;
  step_ = Step::kPlain;
  ++steps_;
  ++since_tried_;
  Plain& plain = plain_[std::bit_width(static_cast<uint32_t>(sequences_ - 1))];
  const bool known = plain.count >= kPlainFirst &&
                     steps_ - plain.last < std::min(kPlainEvery, plain.count * kPlainAgain);
  DraftPlan plan;
  const bool trying = since_tried_ >= kTryEvery;
  if (known && (!full || trying)) {
    std::vector<DraftCandidate> candidates;
    for (size_t i = 0; i < asking.size(); ++i) {
      candidates.push_back(CandidateOf(*asking[i], formats[i]));
    }
    if (!full) {
      plan = ChooseDrafts(candidates, decoding_, times_, drafting_ ? kGoOn : kBegin, balance_);
    }
    drafting_ = plan.any();
    // Also whether steps are as full as they seem.
    if (!plan.any() && trying) {
      plan = ExploreDrafts(candidates, decoding_, times_, balance_ - kReserve, try_together_);
      try_together_ = !try_together_;
      since_tried_ = 0;
    }
  }
  if (!plan.any()) {
    plain.count = std::min(plain.count + 1, kPlainEvery);
    plain.last = steps_;
    return;
  }
  step_ = load.others_draft ? Step::kUnaccounted : Step::kDrafts;
  stake_ = plan.stake;
  for (size_t i = 0; i < asking.size(); ++i) {
    const DraftChoice& choice = plan.choices[i];
    if (choice.drafts > 0) asking[i]->Take(static_cast<size_t>(choice.offer), choice.drafts);
  }
}

int32_t AutoSpeculation::CatchUpRows() const {
  if (!may_catch_up_ || caught_up_ || times_.unit() == 0) return 0;
  const double affordable = catch_up_time_ > 0
                                ? (balance_ - kReserve) * times_.Of(decoding_) / catch_up_time_
                                : kMostCatchUp;
  return static_cast<int32_t>(std::min<double>(catch_up_tried_, affordable));
}

void AutoSpeculation::Record(const Speculation& asking, int32_t tried, int32_t accepted) {
  acceptance_[asking.source()].Add(tried, accepted);
  extra_tokens_ += accepted;
}

bool AutoSpeculation::MustTime(const StepPlan& plan, int32_t layers) const {
  const auto kind = KindOf(plan, layers);
  return kind && (steps_ % kTimedEvery == 0 || !times_.Knows(*kind, plan.rows()));
}

void AutoSpeculation::Observe(const StepPlan& plan, int32_t layers, bool pending, Micros duration) {
  const bool behind_pending = std::exchange(behind_pending_, pending);
  const auto kind = KindOf(plan, layers);
  if (kind && !pending && !behind_pending) times_.Add(*kind, plan.rows(), duration);
  elapsed_ += duration;
  if (plan.sequences[0].draft) return;
  int32_t caught_up = 0;
  for (const PlanSequence& sequence : plan.sequences) {
    if (sequence.model == PlanModel::kDraft) caught_up += sequence.row_count;
  }
  Settle(caught_up);
}

void AutoSpeculation::Settle(int32_t caught_up) {
  if (step_ == Step::kPlain) balance_ += kCredit;
  caught_up_ = caught_up > 0;
  // Those of a step with drafts are in its time.
  const double unit = times_.unit(), plain = times_.Of(decoding_) * unit;
  if (caught_up > 0 && may_catch_up_ && step_ != Step::kDrafts && plain > 0 && elapsed_ > 0) {
    const double extra = std::max(0.0, static_cast<double>(elapsed_) - plain);
    balance_ -= extra / plain;
    const double time = extra / unit / caught_up;
    catch_up_time_ = catch_up_time_ == 0 ? time : (catch_up_time_ + time) / 2;
    catch_up_tried_ = std::min(kMostCatchUp, std::max(catch_up_tried_, 2 * caught_up));
  }
  if (step_ == Step::kDrafts) {
    const bool known = plain > 0 && elapsed_ > 0;
    const double steps = known ? static_cast<double>(elapsed_) / plain : 1 + stake_;
    balance_ += 1 + static_cast<double>(extra_tokens_) / sequences_ - steps;
  }
  balance_ = std::min(balance_, kMostBalance);
  step_ = Step::kNone;
}

}  // namespace skim
