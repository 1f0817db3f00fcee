#include "engine/rope.h"

#include <cmath>
#include <numbers>

namespace skim {
namespace {

// Long wavelengths are stretched by the factor, short ones kept, between the two bounds
// the stretch fades in linearly over original/wavelength.
double Llama3Frequency(double frequency, const RopeScaling& scaling) {
  const double wavelength = 2 * std::numbers::pi / frequency;
  const double turns = static_cast<double>(scaling.original_max_positions) / wavelength;
  if (turns < scaling.low_freq_factor) return frequency / scaling.factor;
  if (turns > scaling.high_freq_factor) return frequency;
  const double keep = (turns - scaling.low_freq_factor) /
                      (scaling.high_freq_factor - scaling.low_freq_factor);
  return (1 - keep) * frequency / scaling.factor + keep * frequency;
}

}  // namespace

std::vector<double> RopeFrequencies(const ModelConfig& config) {
  std::vector<double> frequencies(config.rotary_dim / 2);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    double f = std::pow(config.rope_theta, -2.0 * static_cast<double>(i) / config.rotary_dim);
    if (config.rope_scaling.kind == RopeScaling::Kind::kLinear) f /= config.rope_scaling.factor;
    if (config.rope_scaling.kind == RopeScaling::Kind::kLlama3) {
      f = Llama3Frequency(f, config.rope_scaling);
    }
    frequencies[i] = f;
  }
  return frequencies;
}

RopeTables MakeRopeTables(const ModelConfig& config, int32_t positions) {
  const std::vector<double> frequencies = RopeFrequencies(config);
  RopeTables tables;
  tables.cos.reserve(frequencies.size() * positions);
  tables.sin.reserve(frequencies.size() * positions);
  for (int32_t p = 0; p < positions; ++p) {
    for (double f : frequencies) {
      tables.cos.push_back(static_cast<float>(std::cos(p * f)));
      tables.sin.push_back(static_cast<float>(std::sin(p * f)));
    }
  }
  return tables;
}

}  // namespace skim
