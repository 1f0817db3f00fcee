#include "loadtest/length_distribution.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"

namespace skim {
namespace {

// Beyond any context; keeps a typo from filling the memory.
constexpr int64_t kLongest = 10'000'000;

absl::Status Malformed(const std::string& text) {
  return absl::InvalidArgumentError(
      "'" + text + "' is not a length: N, uniform:MIN:MAX or lognormal:MEDIAN:SIGMA:MAX");
}

bool ParseLength(const std::string& text, int64_t* length) {
  return absl::SimpleAtoi(text, length) && *length >= 1 && *length <= kLongest;
}

}  // namespace

absl::StatusOr<LengthDistribution> LengthDistribution::Parse(const std::string& text) {
  const std::vector<std::string> parts = absl::StrSplit(text, ':');
  LengthDistribution out;
  if (parts.size() == 1 && ParseLength(parts[0], &out.longest_)) {
    out.shortest_ = out.longest_;
    return out;
  }
  if (parts.size() == 3 && parts[0] == "uniform" && ParseLength(parts[1], &out.shortest_) &&
      ParseLength(parts[2], &out.longest_) && out.shortest_ <= out.longest_) {
    out.kind_ = Kind::kUniform;
    return out;
  }
  int64_t median = 0;
  if (parts.size() == 4 && parts[0] == "lognormal" && ParseLength(parts[1], &median) &&
      absl::SimpleAtod(parts[2], &out.sigma_) && std::isfinite(out.sigma_) && out.sigma_ >= 0 &&
      ParseLength(parts[3], &out.longest_) && median <= out.longest_) {
    out.kind_ = Kind::kLognormal;
    out.log_median_ = std::log(static_cast<double>(median));
    return out;
  }
  return Malformed(text);
}

int64_t LengthDistribution::Draw(std::mt19937_64* random) const {
  switch (kind_) {
    case Kind::kFixed:
      return longest_;
    case Kind::kUniform:
      return std::uniform_int_distribution<int64_t>(shortest_, longest_)(*random);
    case Kind::kLognormal: {
      const double drawn = std::lognormal_distribution<double>(log_median_, sigma_)(*random);
      return std::clamp<int64_t>(std::llround(std::min(drawn, 1e15)), shortest_, longest_);
    }
  }
  return shortest_;
}

}  // namespace skim
