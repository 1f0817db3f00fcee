// A matrix of the model in every resident format, and the product that gives each row of a
// step the format its request chose. Nothing else of a step differs between formats:
// attention, norms and KV are common to all rows.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/check.h"
#include "kernels/ops.h"

namespace skim {

class WeightByFormat {
 public:
  // Rows of `format` take `weight`, which may be packed in another format.
  void Add(WeightFormat format, std::unique_ptr<PackedWeight> weight) {
    in_[Index(format)] = weight.get();
    owned_.push_back(std::move(weight));
  }
  // Rows of `format` take what those of `other` take, which must have been added.
  void Share(WeightFormat format, WeightFormat other) { in_[Index(format)] = &In(other); }

  bool Has(WeightFormat format) const { return in_[Index(format)] != nullptr; }
  const PackedWeight& In(WeightFormat format) const {
    SKIM_CHECK(Has(format));
    return *in_[Index(format)];
  }

 private:
  static size_t Index(WeightFormat format) { return static_cast<size_t>(format); }

  std::array<const PackedWeight*, kWeightFormats> in_ = {};
  std::vector<std::unique_ptr<PackedWeight>> owned_;  // what in_ points to
};

// Consecutive rows of one format.
struct FormatRows {
  WeightFormat format = WeightFormat::kBf16;
  int32_t row_begin = 0;
  int32_t row_count = 0;
  bool operator==(const FormatRows&) const = default;
};

// `rows` more rows of `format` behind those in `runs`; neighbours of one format are one run.
void AppendRows(WeightFormat format, int32_t rows, std::vector<FormatRows>* runs);

// Ops::Linear and Ops::LinearSwiGlu, once per run. The runs cover the rows of x.
void LinearByFormat(Ops& ops, std::span<const FormatRows> runs, Matrix<const Bf16> x,
                    const WeightByFormat& weight, const float* bias, bool accumulate,
                    Matrix<float> y);
void LinearSwiGluByFormat(Ops& ops, std::span<const FormatRows> runs, Matrix<const Bf16> x,
                          const WeightByFormat& weight, const float* bias, Matrix<Bf16> y);

}  // namespace skim
