#include "scheduler/draft_choice.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <queue>

namespace skim {
namespace {

constexpr double kSaturated = 1.85;

void Add(WeightFormat format, int32_t rows, RowsByFormat* to) {
  (*to)[static_cast<size_t>(format)] += rows;
}

double Tokens(const DraftOffer& offer, int32_t drafts) {
  return std::accumulate(offer.survival.begin(), offer.survival.begin() + drafts, 1.0);
}

class Chooser {
 public:
  Chooser(std::span<const DraftCandidate> candidates, const RowsByFormat& decoding,
          const StepTimes& times, double least_gain, double most_stake)
      : candidates_(candidates),
        decoding_(decoding),
        times_(times),
        sequences_(std::accumulate(decoding.begin(), decoding.end(), 0)),
        base_(times.Of(decoding)),
        most_stake_(most_stake) {
    best_.choices.resize(candidates.size());
    best_.gain = least_gain;
    int32_t most_rows = 0;  // of a pass
    for (const DraftCandidate& candidate : candidates) {
      int32_t rows = 0;
      for (const DraftOffer& offer : candidate.offers) {
        if (offer.passes) rows = std::max(rows, offer.first_rows);
      }
      sharing_ += rows > 0;
      most_rows += rows;
    }
    for (PassKind kind = 0; kind < kPassKinds; ++kind) {
      for (int32_t rows = 0; rows <= most_rows; ++rows) {
        pass_times_[kind].push_back(times.Of(kind, rows));
      }
    }
  }

  // The offer that each would take if all who could draft in passes shared its passes; `together`,
  // these do so indeed, whatever their text offers.
  void PickOffers(bool together) {
    picked_.clear();
    for (const DraftCandidate& candidate : candidates_) {
      int32_t picked = -1;
      double most = 0;
      const bool shares = together && std::ranges::any_of(candidate.offers, &DraftOffer::passes);
      for (size_t o = 0; o < candidate.offers.size(); ++o) {
        if (shares && !candidate.offers[o].passes) continue;
        const double gain = AloneGain(candidate, candidate.offers[o]);
        if (picked >= 0 && gain <= most) continue;
        picked = static_cast<int32_t>(o);
        most = gain;
      }
      picked_.push_back(picked);
    }
  }

  void Choose() {
    TakeText();
    TakePasses();
  }

  void Explore() {
    State state{decoding_, 0, 0, std::vector<DraftChoice>(candidates_.size())};
    RowsByPass pass = {};
    for (size_t i = 0; i < candidates_.size(); ++i) {
      if (picked_[i] < 0) continue;
      if (Picked(i).passes) AddToPass(Picked(i), Picked(i).first_rows, &pass, &state);
      Add(candidates_[i].format, 1, &state.rows);
      state.choices[i] = {picked_[i], 1};
    }
    if (state.rows == decoding_ || Stake(state) > most_stake_) return;
    best_ = {std::move(state.choices), 0, Stake(state)};
  }

  DraftPlan TakeBest() { return std::move(best_); }

 private:
  using RowsByPass = std::array<int32_t, kPassKinds>;
  struct State {
    RowsByFormat rows;  // of the step that verifies
    double pass_time = 0;
    double log_tokens = 0;  // sum over all sequences
    std::vector<DraftChoice> choices;
  };

  const DraftOffer& Picked(size_t i) const { return candidates_[i].offers[picked_[i]]; }
  double Stake(const State& state) const {
    return (state.pass_time + times_.Of(state.rows)) / base_ - 1;
  }

  // Keeps the state if it is the best so far.
  void Try(const State& state) {
    const double stake = Stake(state);
    if (stake > most_stake_) return;
    const double gain = state.log_tokens / sequences_ - std::log1p(stake);
    if (gain <= best_.gain) return;
    best_ = {state.choices, gain, std::max(stake, 1e-9)};
  }

  // Rows more in a draft pass.
  void AddToPass(const DraftOffer& offer, int32_t more, RowsByPass* pass, State* state) const {
    int32_t& rows = (*pass)[offer.pass];
    const std::vector<double>& times = pass_times_[offer.pass];
    state->pass_time += times[rows + more] - times[rows];
    rows += more;
  }

  double AloneGain(const DraftCandidate& candidate, const DraftOffer& offer) const {
    const int32_t sharing = offer.passes ? sharing_ : 1;
    const double pass = offer.passes ? times_.Of(offer.pass, sharing) : 0;
    const double first =
        offer.passes ? times_.Of(offer.pass, sharing * offer.first_rows) - pass : 0;
    double most = -std::numeric_limits<double>::infinity();
    for (int32_t drafts = 1; drafts <= offer.most; ++drafts) {
      RowsByFormat rows = decoding_;
      Add(candidate.format, drafts * sharing, &rows);
      const double slower = (times_.Of(rows) + drafts * pass + first) / base_;
      const double gain = std::log(Tokens(offer, drafts)) - std::log(slower) * sequences_ / sharing;
      most = std::max(most, gain);
    }
    return most;
  }

  // Drafts that cost no passes, the likeliest first, while it pays.
  void TakeText() {
    struct Next {
      double log_gain;
      size_t candidate;
      bool operator<(const Next& other) const { return log_gain < other.log_gain; }
    };
    text_ = {decoding_, 0, 0, std::vector<DraftChoice>(candidates_.size())};
    std::priority_queue<Next> queue;
    const auto push = [&](size_t i) {
      const int32_t drafts = text_.choices[i].drafts;
      if (drafts == Picked(i).most) return;
      const double now = Tokens(Picked(i), drafts), then = Tokens(Picked(i), drafts + 1);
      queue.push({std::log(then / now), i});
    };
    for (size_t i = 0; i < candidates_.size(); ++i) {
      if (picked_[i] >= 0 && !Picked(i).passes) push(i);
    }
    State state = text_;
    while (!queue.empty()) {
      const Next next = queue.top();
      queue.pop();
      DraftChoice& choice = text_.choices[next.candidate];
      choice = {picked_[next.candidate], choice.drafts + 1};
      text_.log_tokens += next.log_gain;
      Add(candidates_[next.candidate].format, 1, &text_.rows);
      const double before = best_.gain;
      Try(text_);
      if (best_.gain > before) state = text_;
      push(next.candidate);
    }
    text_ = std::move(state);
  }

  // For every number of passes: those whose drafts are the likeliest, as many as pay.
  void TakePasses() {
    std::vector<size_t> order;
    int32_t most = 0;
    for (size_t i = 0; i < candidates_.size(); ++i) {
      if (picked_[i] < 0 || !Picked(i).passes) continue;
      order.push_back(i);
      most = std::max(most, Picked(i).most);
    }
    std::ranges::stable_sort(order, std::greater<>(),
                             [&](size_t i) { return Picked(i).survival[0]; });
    for (int32_t passes = 1; passes <= most; ++passes) {
      State state = text_;
      std::array<RowsByPass, kMaxDrafts> rows = {};
      for (const size_t i : order) {
        const DraftOffer& offer = Picked(i);
        const int32_t drafts = std::min(passes, offer.most);
        for (int32_t pass = 0; pass < drafts; ++pass) {
          AddToPass(offer, pass == 0 ? offer.first_rows : 1, &rows[pass], &state);
        }
        Add(candidates_[i].format, drafts, &state.rows);
        state.log_tokens += std::log(Tokens(offer, drafts));
        state.choices[i] = {picked_[i], drafts};
        Try(state);
      }
    }
  }

  const std::span<const DraftCandidate> candidates_;
  const RowsByFormat decoding_;
  const StepTimes& times_;
  const int32_t sequences_;
  const double base_;
  const double most_stake_;
  int32_t sharing_ = 0;                                     // candidates that could draft in passes
  std::array<std::vector<double>, kPassKinds> pass_times_;  // by rows
  std::vector<int32_t> picked_;                             // offer of each candidate
  State text_;                                              // what costs no passes
  DraftPlan best_;
};

}  // namespace

DraftPlan ChooseDrafts(std::span<const DraftCandidate> candidates, const RowsByFormat& decoding,
                       const StepTimes& times, double least_gain, double most_stake) {
  Chooser chooser(candidates, decoding, times, least_gain, most_stake);
  for (const bool together : {false, true}) {
    chooser.PickOffers(together);
    chooser.Choose();
  }
  return chooser.TakeBest();
}

DraftPlan ExploreDrafts(std::span<const DraftCandidate> candidates, const RowsByFormat& decoding,
                        const StepTimes& times, double most_stake, bool together) {
  Chooser chooser(candidates, decoding, times, 0, most_stake);
  chooser.PickOffers(together);
  chooser.Explore();
  return chooser.TakeBest();
}

bool Saturated(const RowsByFormat& decoding, const StepTimes& times) {
  RowsByFormat twice = decoding;
  for (int32_t& rows : twice) rows *= 2;
  return times.Of(twice) >= kSaturated * times.Of(decoding);
}

}  // namespace skim
