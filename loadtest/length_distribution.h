// How long prompts or outputs are, in tokens. Written as on the command line:
//   128                      always 128
//   uniform:16:512           every length from 16 to 512 equally often
//   lognormal:200:0.8:2000   median 200, sigma 0.8 of the logarithm, cut at 2000
#pragma once

#include <cstdint>
#include <random>
#include <string>

#include "absl/status/statusor.h"

namespace skim {

class LengthDistribution {
 public:
  // Errors say what is wrong with `text`.
  static absl::StatusOr<LengthDistribution> Parse(const std::string& text);

  // At least 1. The same generator state gives the same length.
  int64_t Draw(std::mt19937_64* random) const;

  int64_t longest() const { return longest_; }

 private:
  enum class Kind { kFixed, kUniform, kLognormal };

  Kind kind_ = Kind::kFixed;
  int64_t shortest_ = 1;
  int64_t longest_ = 1;
  double log_median_ = 0;
  double sigma_ = 0;
};

}  // namespace skim
