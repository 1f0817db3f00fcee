// A weight matrix in a backend's own packed form.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace skim {

// How the weights of a matrix product are kept. w is the bf16 weight of the checkpoint.
//   bf16  w
//   fp8   e4m3 codes, one float scale per output channel; |w - code * scale| is at most
//         2^-4 |w| for normal codes and 2^-10 scale for subnormal ones
//   int8  signed codes, one float scale per output channel. The product is W8A8: each row of
//         x is quantised to int8 by its own maximum. Backends quantise rotated weights and
//         rows, x W^T = (x H)(W H)^T with an orthogonal H that spreads outliers (QuaRot,
//         arXiv 2404.00456, section 3): the error of a rotated weight is at most scale / 2
//   int4  codes 0 .. 15, one scale and one offset per output channel and kInt4Group inputs,
//         w = code * scale + offset; x is rounded far finer than w
enum class WeightFormat : uint8_t { kBf16, kFp8, kInt8, kInt4 };
inline constexpr int kWeightFormats = 4;
inline constexpr int kInt4Group = 32;

constexpr std::string_view WeightFormatName(WeightFormat format) {
  constexpr std::string_view kNames[kWeightFormats] = {"bf16", "fp8", "int8", "int4"};
  return kNames[static_cast<int>(format)];
}

constexpr std::optional<WeightFormat> WeightFormatOfName(std::string_view name) {
  for (int i = 0; i < kWeightFormats; ++i) {
    if (WeightFormatName(static_cast<WeightFormat>(i)) == name) return static_cast<WeightFormat>(i);
  }
  return std::nullopt;
}

// A matrix that a checkpoint brings quantised: weight[r][c] = codes[r * cols + c] * scales[r].
struct QuantizedMatrix {
  WeightFormat format = WeightFormat::kInt8;  // kFp8 (e4m3, no NaN codes) or kInt8
  const uint8_t* codes = nullptr;             // [rows, cols]; int8 in two's complement
  const float* scales = nullptr;              // [rows], positive and finite
  int64_t rows = 0;                           // output channels
  int64_t cols = 0;
};

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
