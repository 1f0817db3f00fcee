// Embedding, RMSNorm, gather and scatter: one block per row. Products with rows that an index
// names: one warp per product.
#include "kernels/cuda/device_util.cuh"
#include "kernels/cuda/launch.h"

namespace skim::cuda {
namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads)
    Embed(WeightView table, const TokenId* tokens, const TokenId* drawn, Matrix<float> y) {
  const TokenId named = tokens[blockIdx.x];
  const int64_t token = max(IsPending(named) ? drawn[PendingDraw(named)] : named, 0);
  float* out = y.data + blockIdx.x * y.stride;
  for (int64_t c = threadIdx.x; c < y.cols; c += kThreads) {
    out[c] = FromBf16(*reinterpret_cast<const Bf16*>(table.data + table.At(token, c).byte));
  }
}

__global__ void __launch_bounds__(kThreads)
    RmsNorm(Matrix<const float> x, const float* weight, float eps, Matrix<Bf16> y) {
  __shared__ float partial[kThreads / kWarp];
  const float* in = x.data + blockIdx.x * x.stride;
  float squares = 0;
  for (int64_t c = threadIdx.x; c < y.cols; c += kThreads) squares += in[c] * in[c];
  squares = WarpSum(squares);
  if (threadIdx.x % kWarp == 0) partial[threadIdx.x / kWarp] = squares;
  __syncthreads();
  float total = 0;
  for (float part : partial) total += part;
  const float factor = 1.0f / sqrtf(total / static_cast<float>(y.cols) + eps);
  Bf16* out = y.data + blockIdx.x * y.stride;
  for (int64_t c = threadIdx.x; c < y.cols; c += kThreads) {
    out[c] = RoundToBf16(in[c] * factor * weight[c]);
  }
}

__global__ void __launch_bounds__(kThreads)
    LinearAt(Matrix<const Bf16> x, WeightView table, const int32_t* index, float bias,
             Matrix<float> y) {
  const int64_t r = blockIdx.y;
  const int64_t c = int64_t{blockIdx.x} * (kThreads / kWarp) + threadIdx.x / kWarp;
  if (c >= y.cols) return;
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const int64_t row = index[r * y.cols + c];
  const Bf16* in = x.data + r * x.stride;
  float sum = 0;
  if (row >= 0) {
    for (int64_t k = lane; k < x.cols; k += kWarp) {
      sum += FromBf16(in[k]) *
             FromBf16(*reinterpret_cast<const Bf16*>(table.data + table.At(row, k).byte));
    }
  }
  sum = WarpSum(sum);
  if (lane == 0) y.data[r * y.stride + c] = row >= 0 ? sum + bias : -__builtin_inff();
}

// Row `from` of x to row `to` of y; one of them comes from the index.
template <bool kGather>
__global__ void __launch_bounds__(kThreads)
    MoveRows(Matrix<const float> x, const int32_t* index, Matrix<float> y) {
  const int64_t named = index[blockIdx.x], own = blockIdx.x;
  const float* in = x.data + (kGather ? named : own) * x.stride;
  float* out = y.data + (kGather ? own : named) * y.stride;
  for (int64_t c = threadIdx.x; c < y.cols; c += kThreads) out[c] = in[c];
}

unsigned Blocks(int64_t rows) { return static_cast<unsigned>(rows); }

}  // namespace

void LaunchEmbed(LaunchQueue& queue, const WeightView& table, const TokenId* tokens,
                 const TokenId* drawn, Matrix<float> y) {
  queue.Add(Embed, Blocks(y.rows), kThreads, 0, table, tokens, drawn, y);
}

void LaunchRmsNorm(LaunchQueue& queue, Matrix<const float> x, const float* weight, float eps,
                   Matrix<Bf16> y) {
  queue.Add(RmsNorm, Blocks(y.rows), kThreads, 0, x, weight, eps, y);
}

void LaunchLinearAt(LaunchQueue& queue, Matrix<const Bf16> x, const WeightView& table,
                    const int32_t* index, float bias, Matrix<float> y) {
  const dim3 grid(Blocks((y.cols * kWarp + kThreads - 1) / kThreads), Blocks(y.rows));
  queue.Add(LinearAt, grid, kThreads, 0, x, table, index, bias, y);
}

void LaunchGatherRows(LaunchQueue& queue, Matrix<const float> x, const int32_t* index,
                      Matrix<float> y) {
  queue.Add(MoveRows<true>, Blocks(y.rows), kThreads, 0, x, index, y);
}

void LaunchScatterRows(LaunchQueue& queue, Matrix<const float> x, const int32_t* index,
                       Matrix<float> y) {
  queue.Add(MoveRows<false>, Blocks(x.rows), kThreads, 0, x, index, y);
}

}  // namespace skim::cuda
