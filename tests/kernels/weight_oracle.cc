#include "tests/kernels/weight_oracle.h"

#include <algorithm>
#include <cmath>

#include "base/fp8.h"

namespace skim {
namespace {

double Bf16At(const uint8_t* line, int64_t lane) {
  return ToFloat(Bf16{reinterpret_cast<const uint16_t*>(line)[lane]});
}

}  // namespace

UnpackedWeight Unpack(const CpuPackedWeight& packed) {
  const bool gate_up = packed.shape() == WeightShape::kGateUp;
  const int64_t rows = packed.out_features();
  const int64_t cols = packed.rotated() ? packed.padded_k() : packed.in_features();
  UnpackedWeight out{packed.format(), packed.rotated(), {}, {}, {}};
  for (int64_t n = 0; n < rows; ++n) {
    const int64_t half = gate_up ? rows / 2 : rows;
    const int64_t block = gate_up ? n % half / 16 * 2 + n / half : n / 16;
    const int64_t c = n % half % 16, stride = packed.LineStride(block);
    auto& codes = out.codes.emplace_back(cols);
    auto& scales = out.scales.emplace_back(cols, 1.0);
    auto& offsets = out.offsets.emplace_back(cols, 0.0);
    for (int64_t k = 0; k < cols; ++k) {
      const uint8_t* step = packed.Lines(block, k / packed.step().k);
      const int64_t i = k % packed.step().k;
      switch (packed.format()) {
        case WeightFormat::kBf16:
          codes[k] = Bf16At(step + i / 2 * stride, 2 * c + i % 2);
          break;
        case WeightFormat::kFp8: {
          const int64_t lane = 2 * c + i % 2, pair = i / 2;
          const int64_t byte = 16 * (lane / 8) + 8 * (pair % 2) + lane % 8;
          codes[k] = ToFloat(Fp8{step[pair / 2 * stride + byte]});
          scales[k] = packed.column_scales()[16 * block + c];
          break;
        }
        case WeightFormat::kInt8:
          codes[k] = step[i / 4 * stride + 4 * c + i % 4] - 128.0;
          scales[k] = packed.column_scales()[16 * block + c];
          break;
        case WeightFormat::kInt4: {
          const uint8_t byte = step[(2 + i / 8) * stride + 4 * c + i % 4];
          codes[k] = i % 8 < 4 ? byte & 15 : byte >> 4;
          scales[k] = Bf16At(step, i / 32 * 16 + c);
          offsets[k] = Bf16At(step + stride, i / 32 * 16 + c);
          break;
        }
      }
    }
  }
  return out;
}

std::vector<double> Rotated(const TestMatrix<Bf16>& m, int64_t row) {
  std::vector<float> v((m.cols() + 63) / 64 * 64);
  for (int64_t k = 0; k < m.cols(); ++k) v[k] = ToFloat(m.at(row, k));
  for (size_t half = 1; half < 64; half *= 2) {
    std::vector<float> next(v.size());
    for (size_t k = 0; k < v.size(); ++k) {
      next[k] = k & half ? v[k - half] - v[k] : v[k] + v[k + half];
    }
    v = next;
  }
  std::vector<double> out(v.size());
  for (size_t k = 0; k < v.size(); ++k) out[k] = v[k] / 8;
  return out;
}

std::vector<double> InputOf(const UnpackedWeight& w, const TestMatrix<Bf16>& x, int64_t row) {
  std::vector<double> in(x.cols());
  for (int64_t k = 0; k < x.cols(); ++k) in[k] = ToFloat(x.at(row, k));
  if (w.rotated) in = Rotated(x, row);
  if (w.format != WeightFormat::kInt8 && w.format != WeightFormat::kInt4) return in;
  const size_t group = w.format == WeightFormat::kInt4 ? 32 : in.size();
  for (size_t begin = 0; begin < in.size(); begin += group) {
    const size_t end = std::min(in.size(), begin + group);
    float largest = 0;
    for (size_t k = begin; k < end; ++k) {
      largest = std::max(largest, std::fabs(static_cast<float>(in[k])));
    }
    const float inverse = 127.0f / largest, scale = largest / 127.0f;
    for (size_t k = begin; k < end && largest > 0; ++k) {
      in[k] = std::nearbyint(static_cast<float>(in[k]) * inverse) * double{scale};
    }
  }
  return in;
}

Exact ExactDot(const std::vector<double>& x, const UnpackedWeight& w, int64_t row,
               const float* bias) {
  double magnitude = 0;
  Exact e;
  for (size_t k = 0; k < x.size(); ++k) {
    // An int4 product is taken apart at the offset.
    const double p = x[k] * w.at(row, k);
    e.value += p;
    magnitude += std::abs(x[k] * w.codes[row][k] * w.scales[row][k]);
    magnitude += std::abs(x[k] * w.offsets[row][k]);
  }
  if (bias != nullptr) {
    e.value += bias[row];
    magnitude += std::abs(bias[row]);
  }
  // Integer sums are exact below 2^24 and rounded once when they become fp32.
  const double roundings = 2.0 * x.size() + 7;
  e.bound = 1.01 * roundings * 0x1p-24 * magnitude + roundings * 0x1p-126;
  return e;
}

}  // namespace skim
