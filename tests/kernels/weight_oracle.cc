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
  const int64_t rows = packed.out_features(), cols = packed.in_features();
  UnpackedWeight out{packed.format(), {}, {}};
  for (int64_t n = 0; n < rows; ++n) {
    const int64_t half = gate_up ? rows / 2 : rows;
    const int64_t block = gate_up ? n % half / 16 * 2 + n / half : n / 16;
    const int64_t c = n % half % 16, stride = packed.LineStride(block);
    auto& codes = out.codes.emplace_back(cols);
    auto& scales = out.scales.emplace_back(cols, 1.0);
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
          const uint8_t byte = step[(1 + i / 8) * stride + 4 * c + i % 4];
          codes[k] = (i % 8 < 4 ? byte & 15 : byte >> 4) - 8.0;
          scales[k] = Bf16At(step, i / 32 * 16 + c);
          break;
        }
      }
    }
  }
  return out;
}

std::vector<double> InputOf(WeightFormat format, const TestMatrix<Bf16>& x, int64_t row) {
  std::vector<double> out(x.cols());
  float largest = 0;
  for (int64_t k = 0; k < x.cols(); ++k) {
    out[k] = ToFloat(x.at(row, k));
    largest = std::max(largest, std::fabs(ToFloat(x.at(row, k))));
  }
  if (format != WeightFormat::kInt8 && format != WeightFormat::kInt4) return out;
  const float inverse = 127.0f / largest, scale = largest / 127.0f;
  for (double& v : out) {
    v = largest == 0 ? 0 : std::nearbyint(static_cast<float>(v) * inverse) * double{scale};
  }
  return out;
}

Exact ExactDot(const std::vector<double>& x, const UnpackedWeight& w, int64_t row,
               const float* bias) {
  double magnitude = 0;
  Exact e;
  for (size_t k = 0; k < x.size(); ++k) {
    const double p = x[k] * w.at(row, k);
    e.value += p;
    magnitude += std::abs(p);
  }
  if (bias != nullptr) {
    e.value += bias[row];
    magnitude += std::abs(bias[row]);
  }
  // Integer sums are exact below 2^24 and rounded once when they become fp32.
  const double roundings = 2.0 * x.size() + 5;
  e.bound = 1.01 * roundings * 0x1p-24 * magnitude + roundings * 0x1p-126;
  return e;
}

}  // namespace skim
