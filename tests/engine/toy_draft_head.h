// Draft heads of a test's own making, beside a copy of a golden model.
#pragma once

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "base/bf16.h"
#include "engine/checkpoint.h"
#include "engine/draft_head_weights.h"
#include "tests/engine/copied_model.h"

namespace skim {

class ModelWithDraftHead : public CopiedModel {
 public:
  using CopiedModel::CopiedModel;

  Tensors& tensors() { return tensors_; }

  // Noise, of which no two numbers depend on one another; drafts every `stride`th token.
  void FillWithNoise(int64_t inner, int32_t stride, uint32_t seed) {
    const int64_t hidden = config().hidden_size;
    std::mt19937 rng(seed);
    Matrix("mix", hidden, 2 * hidden, &rng);
    Matrix("gate_up", 2 * inner, 2 * hidden, &rng);
    Matrix("down", hidden, inner, &rng);
    Matrix("deep_gate_up", 2 * inner, hidden, &rng);
    Matrix("deep_down", hidden, inner, &rng);
    std::vector<float> norm(static_cast<size_t>(hidden));
    for (float& value : norm) value = std::uniform_real_distribution<float>(0.5f, 2)(rng);
    tensors_["output_norm"] = TestTensor::Of("F32", {hidden}, norm);
    std::vector<int32_t> ids;
    for (int32_t id = 0; id < config().vocab_size; id += stride) ids.push_back(id);
    tensors_["vocabulary"] = TestTensor::Of("I32", {static_cast<int64_t>(ids.size())}, ids);
  }

  // Its row is the row it goes on from: it drafts what that row says, which is the token that it
  // is given, if the row is the right one. Its vocabulary is every `stride`th token.
  void FillWithIdentity(int32_t stride = 1) {
    const int64_t hidden = config().hidden_size;
    FillWithNoise(16, stride, 1);
    std::vector<Bf16> mix(static_cast<size_t>(2 * hidden * hidden));
    for (int64_t i = 0; i < hidden; ++i) mix[i * 2 * hidden + hidden + i] = ToBf16(1);
    tensors_["mix"] = TestTensor::Of("BF16", {hidden, 2 * hidden}, mix);
    for (const char* name : {"down", "deep_down"}) {
      std::ranges::fill(tensors_[name].bytes, '\0');
    }
    const auto checkpoint = *Checkpoint::Open(path());
    tensors_["output_norm"] =
        TestTensor::Of("F32", {hidden}, *checkpoint.FloatTensor("model.norm.weight", {hidden}));
  }

  void Write() { WriteBeside(kDraftHeadFile, tensors_); }

 private:
  void Matrix(const char* name, int64_t rows, int64_t cols, std::mt19937* rng) {
    tensors_[name] = NoiseMatrix(rows, cols, 1, rng);
  }

  Tensors tensors_;
};

}  // namespace skim
