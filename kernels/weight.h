// A weight matrix in a backend's own packed form.
#pragma once

#include <cstddef>
#include <cstdint>

namespace skim {

enum class WeightFormat : uint8_t { kBf16 };

// Base of what a backend returns from Ops::PackWeight; only that backend reads it.
class PackedWeight {
 public:
  virtual ~PackedWeight() = default;
  int64_t out_features() const { return out_features_; }
  int64_t in_features() const { return in_features_; }
  WeightFormat format() const { return format_; }
  virtual size_t bytes() const = 0;  // resident size

 protected:
  PackedWeight(int64_t out_features, int64_t in_features, WeightFormat format)
      : out_features_(out_features), in_features_(in_features), format_(format) {}

 private:
  int64_t out_features_;
  int64_t in_features_;
  WeightFormat format_;
};

}  // namespace skim
