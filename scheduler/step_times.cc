#include "scheduler/step_times.h"

#include <algorithm>
#include <cmath>

namespace skim {
namespace {

// Of a step of one row, by format: what each reads, and what it does besides.
constexpr std::array<double, kPassKinds> kFirstRow = {1, 0.6, 0.5, 0.35, 0.07, 0.3};
// Of each row more, over that of the first, where nothing is known: 3 % is what kernels that
// stream the weights once come to.
constexpr double kNextRow = 0.03;
// A step that surprises says something of its bucket, of the unit, and of what else ran meanwhile;
// as a Kalman filter has it, each is changed by its share of the doubt. Doubts are variances of
// logarithms, of which a single step's is 1. The unit's stays, since contexts and clocks go on
// changing; a bucket's shrinks with every step, down to this.
constexpr double kUnitDoubt = 0.15, kLeastDoubt = 0.03;
// A step that took longer than expected by more than this was held up by something else.
constexpr double kMostSurprise = 4;

double Shape(double rows) { return 1 + kNextRow * (rows - 1); }

}  // namespace

int StepTimes::BucketOf(int32_t rows) {
  if (rows <= kSingle) return rows - 1;
  const double octaves = std::log2(static_cast<double>(rows) / kSingle);
  return std::min(kBuckets - 1, kSingle + static_cast<int>(octaves * kPerOctave));
}

void StepTimes::Add(PassKind kind, int32_t rows, Micros duration) {
  if (rows < 1 || duration <= 0) return;
  const auto micros = static_cast<double>(duration);
  if (unit_ == 0) unit_ = micros / Of(kind, rows);
  Bucket& bucket = buckets_[kind][BucketOf(rows)];
  if (bucket.doubt == 0) {
    bucket = {.rows = static_cast<double>(rows), .time = micros / unit_, .doubt = 1};
    return;
  }
  const double surprise =
      std::clamp(micros / (unit_ * Of(kind, rows)), 1 / kMostSurprise, kMostSurprise);
  const double doubts = bucket.doubt + kUnitDoubt + 1, weight = bucket.doubt / doubts;
  unit_ *= std::pow(surprise, kUnitDoubt / doubts);
  bucket.time *= std::pow(surprise, weight);
  bucket.rows += (rows - bucket.rows) * weight;
  bucket.doubt = std::max(kLeastDoubt, bucket.doubt * (1 - weight));
}

// Beyond all that is known, rows cost what they have cost so far, if that is more than expected.
double StepTimes::Beyond(const Bucket& first, const Bucket& last, int32_t rows) {
  const double expected = last.time * Shape(rows) / Shape(last.rows);
  if (&first == &last) return expected;
  const double slope = (last.time - first.time) / (last.rows - first.rows);
  return std::max(expected, last.time + slope * (rows - last.rows));
}

double StepTimes::Known(PassKind kind, int32_t rows) const {
  const Bucket *first = nullptr, *below = nullptr, *above = nullptr;
  for (const Bucket& bucket : buckets_[kind]) {
    if (bucket.doubt == 0) continue;
    if (first == nullptr) first = &bucket;
    if (bucket.rows <= rows) below = &bucket;
    if (bucket.rows > rows && above == nullptr) above = &bucket;
  }
  if (below == nullptr && above == nullptr) return 0;
  if (below == nullptr) return above->time * Shape(rows) / Shape(above->rows);
  if (above == nullptr) return Beyond(*first, *below, rows);
  const double share = (rows - below->rows) / (above->rows - below->rows);
  // More rows are never faster: that is noise.
  return below->time + share * std::max(0.0, above->time - below->time);
}

double StepTimes::Of(PassKind kind, int32_t rows) const {
  if (rows < 1) return 0;
  const double known = Known(kind, rows);
  if (known > 0) return known;
  const double first = kFirstRow[kind];
  for (PassKind other = 0; other < kWeightFormats; ++other) {
    const double there = Known(other, rows);
    if (there > 0) return there * first / kFirstRow[other];
  }
  return first * Shape(rows);
}

double StepTimes::Of(const RowsByFormat& rows) const {
  double time = 0;
  for (int format = 0; format < kWeightFormats; ++format) {
    time += Of(static_cast<WeightFormat>(format), rows[static_cast<size_t>(format)]);
  }
  return time;
}

}  // namespace skim
