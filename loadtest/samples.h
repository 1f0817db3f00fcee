// Every measured value is kept, so percentiles are exact. A percentile is the nearest rank:
// the smallest value that at least that share of all values does not exceed.
#pragma once

#include <cstddef>
#include <vector>

namespace skim {

class Samples {
 public:
  struct Summary {
    size_t count = 0;
    double mean = 0;
    double p50 = 0;
    double p90 = 0;
    double p99 = 0;
    double max = 0;
  };

  void Add(double value) { values_.push_back(value); }
  size_t count() const { return values_.size(); }

  // `share` in (0, 1]; 0 if there are no values.
  double Percentile(double share) const;
  // The mean of the two middle values if their number is even; 0 if there are none.
  double Median() const;
  Summary Summarize() const;

 private:
  std::vector<double> values_;
};

}  // namespace skim
