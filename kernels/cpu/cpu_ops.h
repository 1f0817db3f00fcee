// The CPU backend: composes the kernels of this folder behind Ops. Every call finishes
// before it returns. Owns the thread pool and all scratch memory.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/key_scores.h"
#include "kernels/cpu/sample.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/ops.h"

namespace skim {

class CpuOps final : public Ops {
 public:
  // `isa` must be one of SupportedIsas().
  CpuOps(Isa isa, int threads, bool pin_threads);

  void BindThread() override { pool_.BindCaller(); }
  std::string Description() const override;

  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(size_t bytes) override;
  void Upload(void* device, const void* host, size_t bytes) override;
  void Download(void* host, const void* device, size_t bytes) override;
  absl::StatusOr<std::unique_ptr<PackedWeight>> PackWeight(Matrix<const Bf16> weight,
                                                           WeightFormat format,
                                                           WeightShape shape) override;
  absl::StatusOr<std::unique_ptr<PackedWeight>> PackQuantized(const QuantizedMatrix& weight,
                                                              WeightShape shape) override;

  void Embed(const PackedWeight& table, const TokenId* tokens, const TokenId* drawn,
             Matrix<float> y) override;
  void RmsNorm(Matrix<const float> x, const float* weight, float eps, Matrix<Bf16> y) override;
  void Linear(Matrix<const Bf16> x, const PackedWeight& weight, const float* bias, bool accumulate,
              Matrix<float> y) override;
  void LinearSwiGlu(Matrix<const Bf16> x, const PackedWeight& weight, const float* bias,
                    Matrix<Bf16> y) override;
  void LinearAt(Matrix<const Bf16> x, const PackedWeight& table, const int32_t* index, float bias,
                Matrix<float> y) override;
  void RopeAndWriteKv(const RopeWriteArgs& args, const AttentionRows& rows,
                      const KvLayer& kv) override;
  void Attention(const AttentionArgs& args, const AttentionRows& rows, const KvLayer& kv) override;
  bool ScoresKeys() const override { return true; }
  void KeyScores(const KeyScoresArgs& args, const AttentionRows& rows, const KvLayer& kv) override;
  void PoolScores(const PoolScoresArgs& args) override;
  void TopRows(const TopRowsArgs& args) override;
  void GatherRows(Matrix<const float> x, const int32_t* index, Matrix<float> y) override;
  void ScatterRows(Matrix<const float> x, const int32_t* index, Matrix<float> y) override;
  void Sample(const SampleArgs& args, std::span<SampledToken> results) override;

  absl::Status Wait() override;

 private:
  const Isa isa_;
  ThreadPool pool_;
  Gemm gemm_;
  AttentionScratch attention_scratch_;
  TokenChoiceScratch choice_scratch_;
  SampleScratch sample_scratch_;
};

}  // namespace skim
