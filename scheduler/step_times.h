// How long a step takes by its rows, learned from the steps themselves: what drafts are weighed
// by. Times have a unit of their own, only their ratios mean something: contexts that grow and a
// clock that throttles change all of them alike, and then nothing is to be learned anew. Before
// anything is known, weights are taken to stream once whatever the number of rows. Loop thread
// only; no clock is read here.
#pragma once

#include <array>
#include <cstdint>

#include "base/types.h"
#include "kernels/weight.h"

namespace skim {

using RowsByFormat = std::array<int32_t, kWeightFormats>;

class StepTimes {
 public:
  // A step of `rows` rows of one format that ran all layers and were all drawn from. Durations
  // of 0, as of a test's clock that stands still, say nothing and are ignored.
  void Add(WeightFormat format, int32_t rows, Micros duration);

  double Of(WeightFormat format, int32_t rows) const;  // 0 for no rows
  // Each format's weights are read for its rows.
  double Of(const RowsByFormat& rows) const;
  // The unit, in microseconds; 0 before anything was added.
  double unit() const { return unit_; }

 private:
  // Of row numbers that are near one another.
  struct Bucket {
    double rows = 0;  // mean
    double time = 0;
    int64_t count = 0;
  };
  static constexpr int kSingle = 16;    // row numbers up to here have a bucket each,
  static constexpr int kPerOctave = 4;  // and so many from each to its double after it
  static constexpr int kBuckets = kSingle + 9 * kPerOctave;

  static int BucketOf(int32_t rows);
  static double Beyond(const Bucket& first, const Bucket& last, int32_t rows);
  // By what is known of this format; 0 if nothing is.
  double Known(WeightFormat format, int32_t rows) const;

  std::array<std::array<Bucket, kBuckets>, kWeightFormats> buckets_ = {};
  double unit_ = 0;
};

}  // namespace skim
