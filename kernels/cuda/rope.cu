// Rotary embedding of q and k, and k, v into their slots. A block is one row and one KV head:
// the query heads that share it, its k and its v, one warp each.
#include "kernels/cuda/kv_read.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/kv_codes.h"

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

// Stores number(0 .. count) as codes at place(d), their scale at `scale`; one warp. Bit for bit
// what Quantize of kernels/kv_codes.h stores.
template <KvFormat kFormat, typename Number, typename Place>
__device__ void WriteCodes(int count, const Number& number, const Place& place, std::byte* scale) {
  constexpr uint32_t kSign = 0x80000000u, kInfinityBits = 0x7f800000u;
  const int lane = threadIdx.x % kWarp;
  uint32_t largest = 0;  // ordered like the magnitudes, NaN above all
#pragma unroll 1         // a head is a few turns; unrolled, its addresses take all registers
  for (int d = lane; d < count; d += kWarp) {
    largest = max(largest, __float_as_uint(number(d)) & ~kSign);
  }
  for (int step = kWarp / 2; step > 0; step /= 2) {
    largest = max(largest, __shfl_xor_sync(kAllLanes, largest, step));
  }
  constexpr float kHighest =
      MagnitudeOf(kFormat, kFormat == KvFormat::kInt8 ? kHighestInt8 : kHighestFp8);
  const float maximum = __uint_as_float(largest);
  const bool finite = largest < kInfinityBits, zero = maximum < kSmallestKvMaximum;
  const float to_codes = kHighest / maximum;
#pragma unroll 1
  for (int d = lane; d < count; d += kWarp) {
    uint32_t code = 0;
    if (finite && !zero) {
      const uint32_t bits = __float_as_uint(number(d));
      const float magnitude = __uint_as_float(bits & ~kSign) * to_codes;
      code = kFormat == KvFormat::kInt8 ? NearestInt8(magnitude) : NearestFp8(magnitude);
      code |= (bits & kSign) >> 24;
    }
    *place(d) = static_cast<std::byte>(code);
  }
  if (lane == 0) {
    *reinterpret_cast<float*>(scale) = !finite ? __int_as_float(0x7fffffff)
                                       : zero  ? 0
                                               : maximum / kHighest;
  }
}

template <KvFormat kFormat>
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
      const auto rotated = [&](int d) {
        return Rotated(in, d, scale, cosines, sines, args.rotary_dim);
      };
      if constexpr (kFormat != KvFormat::kBf16) {
        if (is_key) {
          WriteCodes<kFormat>(
              head_dim, rotated, [&](int d) { return keys + layout.KeyElement(offset, d); },
              keys + layout.KeyScale(offset));
          continue;
        }
      }
      Bf16* q = args.q.data + row * args.q.stride + int64_t{head} * head_dim;
      for (int d = lane; d < head_dim; d += kWarp) {
        Bf16& out = is_key ? NumberAt(keys + layout.KeyElement(offset, d)) : q[d];
        out = RoundToBf16(rotated(d));
      }
    } else {
      const float* in = x + (args.heads + layout.kv_heads + kv_head) * head_dim;
      if constexpr (kFormat != KvFormat::kBf16) {
        WriteCodes<kFormat>(
            head_dim, [&](int d) { return in[d]; },
            [&](int d) { return values + layout.ValueElement(offset, d); },
            values + layout.ValueScale(offset));
        continue;
      }
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

void LaunchRopeAndWriteKv(LaunchQueue& queue, const RopeWriteArgs& args, const AttentionRows& rows,
                          const DeviceRows& device_rows, const KvLayer& kv) {
  const dim3 grid(static_cast<unsigned>(device_rows.count),
                  static_cast<unsigned>(kv.layout.kv_heads));
  ForKvFormat(kv.layout.format, [&]<KvFormat kFormat>() {
    queue.Add(RopeAndWriteKv<kFormat>, grid, kWarps * kWarp, 0, args, rows.positions, rows.slots,
              rows.blocks, device_rows.places, kv);
  });
}

}  // namespace skim::cuda
