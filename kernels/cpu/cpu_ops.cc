#include "kernels/cpu/cpu_ops.h"

#include <cstring>
#include <thread>
#include <utility>

#include "base/status_macros.h"
#include "kernels/cpu/memory.h"
#include "kernels/cpu/norm.h"
#include "kernels/cpu/packed_weight.h"
#include "kernels/cpu/populate.h"
#include "kernels/cpu/rope.h"
#include "kernels/cpu/rows.h"

namespace skim {
namespace {

// Smaller ones are soon touched anyway.
constexpr size_t kPopulateFromBytes = size_t{64} << 20;

class CpuBuffer final : public Buffer {
 public:
  explicit CpuBuffer(AlignedMemory memory) : memory_(std::move(memory)) {
    if (size() >= kPopulateFromBytes) populate_ = PopulateInBackground(data(), size());
  }
  std::byte* data() const override { return memory_.data(); }
  size_t size() const override { return memory_.size(); }

 private:
  AlignedMemory memory_;
  std::jthread populate_;  // ends before the memory does
};

// Only this backend's own weights come back to it.
const CpuPackedWeight& Own(const PackedWeight& weight) {
  return static_cast<const CpuPackedWeight&>(weight);
}

}  // namespace

CpuOps::CpuOps(Isa isa, int threads, bool pin_threads)
    : isa_(isa), pool_(threads, pin_threads), gemm_(&pool_, GemmKernelsOf(isa)) {}

std::string CpuOps::Description() const {
  return "cpu " + std::string(IsaName(isa_)) + ", " + std::to_string(pool_.threads()) +
         (pool_.threads() == 1 ? " thread" : " threads");
}

absl::StatusOr<std::unique_ptr<Buffer>> CpuOps::Allocate(size_t bytes) {
  SKIM_ASSIGN_OR_RETURN(AlignedMemory memory, AlignedMemory::Allocate(bytes));
  return std::make_unique<CpuBuffer>(std::move(memory));
}

void CpuOps::Upload(void* device, const void* host, size_t bytes) {
  if (bytes > 0) std::memcpy(device, host, bytes);
}

void CpuOps::Download(void* host, const void* device, size_t bytes) {
  if (bytes > 0) std::memcpy(host, device, bytes);
}

absl::StatusOr<std::unique_ptr<PackedWeight>> CpuOps::PackWeight(Matrix<const Bf16> weight,
                                                                 WeightFormat format,
                                                                 WeightShape shape) {
  return CpuPackedWeight::Pack(pool_, weight, format, shape);
}

absl::StatusOr<std::unique_ptr<PackedWeight>> CpuOps::PackQuantized(const QuantizedMatrix& weight,
                                                                    WeightShape shape) {
  return CpuPackedWeight::Pack(pool_, weight, shape);
}

void CpuOps::Embed(const PackedWeight& table, const TokenId* tokens, const TokenId* drawn,
                   Matrix<float> y) {
  CpuEmbed(pool_, Own(table), tokens, drawn, y);
}

void CpuOps::RmsNorm(Matrix<const float> x, const float* weight, float eps, Matrix<Bf16> y) {
  CpuRmsNorm(pool_, isa_, x, weight, eps, y);
}

void CpuOps::Linear(Matrix<const Bf16> x, const PackedWeight& weight, const float* bias,
                    bool accumulate, Matrix<float> y) {
  gemm_.Linear(x, Own(weight), bias, accumulate, y);
}

void CpuOps::LinearSwiGlu(Matrix<const Bf16> x, const PackedWeight& weight, const float* bias,
                          Matrix<Bf16> y) {
  gemm_.LinearSwiGlu(x, Own(weight), bias, y);
}

void CpuOps::RopeAndWriteKv(const RopeWriteArgs& args, const AttentionRows& rows,
                            const KvLayer& kv) {
  CpuRopeAndWriteKv(pool_, isa_, args, rows, kv);
}

void CpuOps::Attention(const AttentionArgs& args, const AttentionRows& rows, const KvLayer& kv) {
  CpuAttention(pool_, isa_, attention_scratch_, args, rows, kv);
}

void CpuOps::KeyScores(const KeyScoresArgs& args, const AttentionRows& rows, const KvLayer& kv) {
  CpuKeyScores(pool_, isa_, attention_scratch_, args, rows, kv);
}

void CpuOps::PoolScores(const PoolScoresArgs& args) { CpuPoolScores(choice_scratch_, args); }

void CpuOps::TopRows(const TopRowsArgs& args) { CpuTopRows(choice_scratch_, args); }

void CpuOps::LinearAt(Matrix<const Bf16> x, const PackedWeight& table, const int32_t* index,
                      float bias, Matrix<float> y) {
  CpuLinearAt(pool_, x, Own(table), index, bias, y);
}

void CpuOps::GatherRows(Matrix<const float> x, const int32_t* index, Matrix<float> y) {
  CpuGatherRows(pool_, x, index, y);
}

void CpuOps::ScatterRows(Matrix<const float> x, const int32_t* index, Matrix<float> y) {
  CpuScatterRows(pool_, x, index, y);
}

void CpuOps::Sample(const SampleArgs& args, std::span<SampledToken> results) {
  CpuSample(pool_, isa_, sample_scratch_, args, results);
}

absl::Status CpuOps::Wait() { return absl::OkStatus(); }

}  // namespace skim
