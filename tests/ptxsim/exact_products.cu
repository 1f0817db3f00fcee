// Tensor-core products and packed bf16 arithmetic: what the simulated device computes is what the
// host computes. Fragments as the PTX ISA lays them out, spelled out element by element.
#include <cuda_bf16.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <type_traits>
#include <vector>

#include "tests/ptxsim/programs.h"

namespace {

constexpr int kRows = 16, kColumns = 8, kLanes = 32;

// For kPerRegister numbers to a register: element `i` of what a lane holds of A (16 x K) and of B
// (K x 8). Rows of A and columns of B belong to lane / 4; along K there are halves of K / 2.
template <int kPerRegister>
struct Fragment {
  static constexpr int kDepth = 8 * kPerRegister;
  __host__ __device__ static int RowOfA(int lane, int i) {
    return lane / 4 + (i / kPerRegister % 2 == 1 ? 8 : 0);
  }
  __host__ __device__ static int DepthOfA(int lane, int i) {
    return lane % 4 * kPerRegister + i % kPerRegister + (i >= 2 * kPerRegister ? kDepth / 2 : 0);
  }
  __host__ __device__ static int DepthOfB(int lane, int i) {
    return lane % 4 * kPerRegister + i % kPerRegister + (i >= kPerRegister ? kDepth / 2 : 0);
  }
};

template <typename T, typename Sum>
__global__ void Multiply(const T* a, const T* b, const Sum* c, Sum* d) {
  constexpr int kPer = 4 / sizeof(T);
  using F = Fragment<kPer>;
  const int lane = threadIdx.x;
  uint32_t ra[4] = {}, rb[2] = {};
  for (int r = 0; r < 4; ++r) {
    for (int i = 0; i < kPer; ++i) {
      const int e = r * kPer + i;
      const T x = a[F::RowOfA(lane, e) * F::kDepth + F::DepthOfA(lane, e)];
      ra[r] |= static_cast<uint32_t>(static_cast<std::make_unsigned_t<T>>(x)) << 8 * sizeof(T) * i;
    }
  }
  for (int r = 0; r < 2; ++r) {
    for (int i = 0; i < kPer; ++i) {
      const T x = b[F::DepthOfB(lane, r * kPer + i) * kColumns + lane / 4];
      rb[r] |= static_cast<uint32_t>(static_cast<std::make_unsigned_t<T>>(x)) << 8 * sizeof(T) * i;
    }
  }
  Sum sum[4];
  for (int e = 0; e < 4; ++e) {
    sum[e] = c[(lane / 4 + e / 2 * 8) * kColumns + lane % 4 * 2 + e % 2];
  }
  if constexpr (sizeof(T) == 1) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+r"(sum[0]), "+r"(sum[1]), "+r"(sum[2]), "+r"(sum[3])
        : "r"(ra[0]), "r"(ra[1]), "r"(ra[2]), "r"(ra[3]), "r"(rb[0]), "r"(rb[1]));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(ra[0]), "r"(ra[1]), "r"(ra[2]), "r"(ra[3]), "r"(rb[0]), "r"(rb[1]));
  }
  for (int e = 0; e < 4; ++e) {
    d[(lane / 4 + e / 2 * 8) * kColumns + lane % 4 * 2 + e % 2] = sum[e];
  }
}

double NumberOf(int8_t x) { return x; }
double NumberOf(uint16_t bf16) {
  const uint32_t bits = uint32_t{bf16} << 16;
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

template <typename T>
T* ToDevice(const std::vector<T>& host) {
  T* device = nullptr;
  if (cudaMalloc(reinterpret_cast<void**>(&device), host.size() * sizeof(T)) != cudaSuccess) {
    return nullptr;
  }
  cudaMemcpy(device, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice);
  return device;
}

// Numbers are small integers, so that sums are exact in any order.
template <typename T, typename Sum>
int CheckProduct(const std::vector<T>& numbers) {
  constexpr int kDepth = Fragment<4 / sizeof(T)>::kDepth;
  std::mt19937 random(3);
  std::vector<T> a(kRows * kDepth), b(kDepth * kColumns);
  std::vector<Sum> c(kRows * kColumns), d(c.size());
  for (T& x : a) x = numbers[random() % numbers.size()];
  for (T& x : b) x = numbers[random() % numbers.size()];
  for (Sum& x : c) x = static_cast<Sum>(static_cast<int>(random() % 2000) - 1000);
  T *da = ToDevice(a), *db = ToDevice(b);
  Sum *dc = ToDevice(c), *dd = ToDevice(d);
  Multiply<<<1, kLanes>>>(da, db, dc, dd);
  MUST(cudaGetLastError());
  MUST(cudaMemcpy(d.data(), dd, d.size() * sizeof(Sum), cudaMemcpyDeviceToHost));
  for (int row = 0; row < kRows; ++row) {
    for (int column = 0; column < kColumns; ++column) {
      double want = static_cast<double>(c[row * kColumns + column]);
      for (int k = 0; k < kDepth; ++k) {
        want += NumberOf(a[row * kDepth + k]) * NumberOf(b[k * kColumns + column]);
      }
      EXPECT(static_cast<double>(d[row * kColumns + column]) == want);
    }
  }
  for (void* p : {static_cast<void*>(da), static_cast<void*>(db)}) MUST(cudaFree(p));
  for (Sum* p : {dc, dd}) MUST(cudaFree(p));
  return 0;
}

int ProductProgram() {
  std::vector<int8_t> bytes;
  std::vector<uint16_t> pairs;
  for (int x = -128; x < 128; ++x) bytes.push_back(static_cast<int8_t>(x));
  for (int x = -16; x <= 16; ++x) {
    const auto number = static_cast<float>(x);
    uint32_t bits;
    std::memcpy(&bits, &number, sizeof(bits));
    pairs.push_back(static_cast<uint16_t>(bits >> 16));
  }
  const int failed = CheckProduct<int8_t, int32_t>(bytes);
  return failed != 0 ? failed : CheckProduct<uint16_t, float>(pairs);
}

__global__ void Fma(const uint32_t* in, uint32_t* out) {
  const uint32_t* x = in + 3 * (blockIdx.x * blockDim.x + threadIdx.x);
  uint32_t sum;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(sum) : "r"(x[0]), "r"(x[1]), "r"(x[2]));
  out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

// The bf16 nearest to x, ties to even, by trying the two neighbours.
uint16_t NearestBf16(double x) {
  uint16_t best = 0;
  double least = INFINITY;
  const auto rough = static_cast<float>(x);
  uint32_t bits;
  std::memcpy(&bits, &rough, sizeof(bits));
  for (int step = -1; step <= 1; ++step) {
    const auto candidate = static_cast<uint16_t>((bits >> 16) + static_cast<uint32_t>(step));
    const double error = std::fabs(NumberOf(candidate) - x);
    if (error < least || (error == least && candidate % 2 == 0)) {
      least = error;
      best = candidate;
    }
  }
  return best;
}

int PackedProgram() {
  constexpr int kCount = 256;
  std::mt19937 random(4);
  std::vector<uint32_t> in(3 * kCount), out(kCount);
  // Exponents near each other, tiny ones among them; no infinities, and no zero results.
  for (uint32_t& x : in) {
    x = 0;
    for (int half = 0; half < 2; ++half) {
      const uint32_t exponent = random() % 8 == 0 ? random() % 3 + 1 : 120 + random() % 14;
      x |= (random() % 2 << 15 | exponent << 7 | random() % 128) << 16 * half;
    }
  }
  uint32_t *device_in = ToDevice(in), *device_out = ToDevice(out);
  Fma<<<2, kCount / 2>>>(device_in, device_out);
  MUST(cudaGetLastError());
  MUST(cudaMemcpy(out.data(), device_out, out.size() * sizeof(uint32_t), cudaMemcpyDeviceToHost));
  for (int i = 0; i < kCount; ++i) {
    for (int half = 0; half < 2; ++half) {
      const auto number = [&](int k) {
        return NumberOf(static_cast<uint16_t>(in[3 * i + k] >> 16 * half));
      };
      const double exact = number(0) * number(1) + number(2);
      EXPECT(static_cast<uint16_t>(out[i] >> 16 * half) == NearestBf16(exact));
    }
  }
  MUST(cudaFree(device_in));
  MUST(cudaFree(device_out));
  return 0;
}

}  // namespace

Programs ProductPrograms() { return {{"products", ProductProgram}, {"packed", PackedProgram}}; }
