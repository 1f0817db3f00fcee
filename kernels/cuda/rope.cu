// Rotary embedding of q and k, and k, v into their slots. A block is one row and one KV head:
// the query heads that share it, its k and its v, one warp each.
#include "kernels/cuda/device_util.cuh"
#include "kernels/cuda/launch.h"

namespace skim::cuda {
namespace {

constexpr int kWarps = 4;

// What one head is multiplied with before rotation: norm weights, if any, and 1 / rms.
struct HeadScale {
  const float* norm;
  float factor;

  __device__ float operator()(const float* x, int d) const {
    return norm == nullptr ? x[d] : x[d] * factor * norm[d];
  }
};

__device__ HeadScale ScaleOf(const float* x, int head_dim, const float* norm, float eps) {
  if (norm == nullptr) return {nullptr, 1.0f};
  float squares = 0;
  for (int d = threadIdx.x % kWarp; d < head_dim; d += kWarp) squares += x[d] * x[d];
  return {norm, 1.0f / sqrtf(WarpSum(squares) / static_cast<float>(head_dim) + eps)};
}

// Element d of the rotated head: halves of the first rotary_dim are rotated against each other.
__device__ float Rotated(const float* x, int d, const HeadScale& scale, const float* cosines,
                         const float* sines, int rotary_dim) {
  const int half = rotary_dim / 2;
  if (d >= rotary_dim) return scale(x, d);
  const float c = cosines[d % half], s = sines[d % half];
  return d < half ? scale(x, d) * c - scale(x, d + half) * s
                  : scale(x, d) * c + scale(x, d - half) * s;
}

__device__ Bf16& NumberAt(std::byte* place) { return *reinterpret_cast<Bf16*>(place); }

__global__ void __launch_bounds__(kWarps* kWarp)
    RopeAndWriteKv(RopeWriteArgs args, const int32_t* positions, const int32_t* slots,
                   const PageId* blocks, const RowPlace* places, KvLayer kv) {
  const int64_t row = blockIdx.x;
  const int kv_head = blockIdx.y, lane = threadIdx.x % kWarp;
  const KvLayout& layout = kv.layout;
  const int head_dim = layout.head_dim, group = args.heads / layout.kv_heads;
  const float* x = args.qkv.data + row * args.qkv.stride;
  const int64_t angles = int64_t{positions[row]} * (args.rotary_dim / 2);
  const float* cosines = args.rope_cos + angles;
  const float* sines = args.rope_sin + angles;

  const int slot = slots[row], offset = slot % layout.page_tokens;
  const PageId page = blocks[places[row].block_begin + slot / layout.page_tokens];
  std::byte* base = kv.pool + page * layout.PageBytes();
  std::byte* keys = base + layout.KeyBase(kv.layer_in_unit, kv_head);
  std::byte* values = base + layout.ValueBase(kv.layer_in_unit, kv_head);

  for (int item = threadIdx.x / kWarp; item < group + 2; item += kWarps) {
    if (item <= group) {  // a query head, or the key
      const bool is_key = item == group;
      const int head = is_key ? args.heads + kv_head : kv_head * group + item;
      const float* in = x + head * head_dim;
      const HeadScale scale =
          ScaleOf(in, head_dim, is_key ? args.k_norm : args.q_norm, args.norm_eps);
      Bf16* q = args.q.data + row * args.q.stride + int64_t{head} * head_dim;
      for (int d = lane; d < head_dim; d += kWarp) {
        Bf16& out = is_key ? NumberAt(keys + layout.KeyElement(offset, d)) : q[d];
        out = RoundToBf16(Rotated(in, d, scale, cosines, sines, args.rotary_dim));
      }
    } else {
      const float* in = x + (args.heads + layout.kv_heads + kv_head) * head_dim;
      // The partner of the last slot: kv_layout.h.
      const bool clear_partner = slot % 2 == 0 && slot + 1 >= places[row].slots;
      for (int d = lane; d < head_dim; d += kWarp) {
        NumberAt(values + layout.ValueElement(offset, d)) = RoundToBf16(in[d]);
        if (clear_partner) NumberAt(values + layout.ValueElement(offset + 1, d)) = Bf16{};
      }
    }
  }
}

}  // namespace

void LaunchRopeAndWriteKv(Stream stream, const RopeWriteArgs& args, const AttentionRows& rows,
                          const DeviceRows& device_rows, const KvLayer& kv) {
  const dim3 grid(static_cast<unsigned>(device_rows.count),
                  static_cast<unsigned>(kv.layout.kv_heads));
  RopeAndWriteKv<<<grid, kWarps * kWarp, 0, stream>>>(args, rows.positions, rows.slots, rows.blocks,
                                                      device_rows.places, kv);
}

}  // namespace skim::cuda
