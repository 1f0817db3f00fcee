// The CUDA backend: the kernels of this folder behind Ops, on one stream of the first device.
// Calls enqueue; the only waits are Wait() and those of load time (PackWeight).
//
// Batch invariance holds here too, as long as the device's own arithmetic is deterministic:
// every op computes a row the same way whatever else is in the batch. Not so with cuBLASLt in
// bf16 and fp8.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/cuda/large_products.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/runtime.h"
#include "kernels/ops.h"

namespace skim::cuda {

class CudaOps final : public Ops {
 public:
  // As Runtime::Create, and with `cublaslt` as LargeProducts::Create. With `graphs` what is said to
  // repeat is replayed.
  static absl::StatusOr<std::unique_ptr<Ops>> Create(const DeviceMemory& memory, bool cublaslt,
                                                     bool graphs);

  std::string Description() const override {
    return "cuda " + runtime_->device_name() + (large_products_ ? ", cublaslt" : "");
  }
  std::optional<size_t> FreeDeviceBytes() override { return runtime_->free_bytes(); }

  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(size_t bytes) override;
  void Upload(void* device, const void* host, size_t bytes) override;
  void Download(void* host, const void* device, size_t bytes) override;
  absl::StatusOr<std::unique_ptr<PackedWeight>> PackWeight(Matrix<const Bf16> weight,
                                                           WeightFormat format,
                                                           WeightShape shape) override;
  absl::StatusOr<std::unique_ptr<PackedWeight>> PackQuantized(const QuantizedMatrix& weight,
                                                              WeightShape shape) override;

  void ExpectRepeat() override;
  int64_t Replays() const override { return runtime_->launches().graph_launches(); }

  bool Asynchronous() const override { return true; }
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
  // What a Sample left to copy into its results once the device is done.
  struct PendingSample {
    std::span<SampledToken> results;
    const SampleOutcome* outcomes;
    const TokenLogprob* top;  // [results][max_top]
    int32_t max_top;
  };

  CudaOps(std::unique_ptr<Runtime> runtime, bool graphs);
  // x as the weight's format reads it: itself, or quantised in scratch memory.
  LinearInput Input(Matrix<const Bf16> x, const WeightView& weight);
  // A copy until Wait(); null if there is nothing or something failed.
  template <typename T>
  const T* UploadList(std::span<const T> list);
  // The step's rows on the device: uploaded when they differ from the last call's.
  DeviceRows Rows(const AttentionRows& rows);
  // The same of the tiles that attention makes of them, with `sharing` query heads to a KV head.
  AttentionTiles Tiles(const AttentionRows& rows, int sharing);

  std::unique_ptr<Runtime> runtime_;
  const bool graphs_;
  std::unique_ptr<LargeProducts> large_products_;  // null: all products are by our own kernels
  Scratch input_codes_, input_scales_;
  Scratch attention_parts_, summed_scores_, sample_logits_, sample_results_;
  std::vector<RowPlace> places_;  // what lies at device_places_
  const RowPlace* device_places_ = nullptr;
  std::vector<AttentionTile> tiles_;  // what lies at device_tiles_
  const AttentionTile* device_tiles_ = nullptr;
  std::vector<PendingSample> pending_;
};

}  // namespace skim::cuda
