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

// What a step or a draft pass runs: the model in a weight format, the draft head, or a draft model.
using PassKind = size_t;
inline constexpr PassKind kHeadPass = kWeightFormats, kDraftModelPass = kWeightFormats + 1;
inline constexpr size_t kPassKinds = kWeightFormats + 2;
constexpr PassKind PassOf(WeightFormat format) { return static_cast<PassKind>(format); }

class StepTimes {
 public:
  // A step of `rows` rows that were all drawn from, of one format and through all layers, or all
  // of the draft head. Durations
  // of 0, as of a test's clock that stands still, say nothing and are ignored.
  void Add(PassKind kind, int32_t rows, Micros duration);
  void Add(WeightFormat format, int32_t rows, Micros duration) {
    Add(PassOf(format), rows, duration);
  }

  double Of(PassKind kind, int32_t rows) const;  // 0 for no rows
  double Of(WeightFormat format, int32_t rows) const { return Of(PassOf(format), rows); }
  // Whether steps or passes of this kind have been seen.
  bool Knows(PassKind kind, int32_t rows) const { return Known(kind, rows) > 0; }
  // Each format's weights are read for its rows.
  double Of(const RowsByFormat& rows) const;
  // The unit, in microseconds; 0 before anything was added.
  double unit() const { return unit_; }

 private:
  // Of row numbers that are near one another.
  struct Bucket {
    double rows = 0;  // mean
    double time = 0;
    double doubt = 0;  // of `time`, as the source file has it; 0 if nothing is known
  };
  static constexpr int kSingle = 16;    // row numbers up to here have a bucket each,
  static constexpr int kPerOctave = 4;  // and so many from each to its double after it
  static constexpr int kBuckets = kSingle + 9 * kPerOctave;

  static int BucketOf(int32_t rows);
  static double Beyond(const Bucket& first, const Bucket& last, int32_t rows);
  // By what is known of this kind; 0 if nothing is.
  double Known(PassKind kind, int32_t rows) const;

  std::array<std::array<Bucket, kBuckets>, kPassKinds> buckets_ = {};
  double unit_ = 0;
};

}  // namespace skim
