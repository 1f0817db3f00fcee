#include <cuda_runtime_api.h>

#include <algorithm>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/cublas_lt.h"
#include "kernels/cuda/large_products.h"
#include "tests/gpu/benches.h"

namespace skim {
namespace {

// As much as all of this needs, on a device that others may use as well.
constexpr DeviceMemory kMemory = {.share = 0.8};

// Measured in this run; nothing where there is nothing to measure with.
struct Roofs {
  std::optional<double> bytes_per_s;  // read and written
  std::optional<double> flops;        // in bf16
};

std::vector<Bf16> Numbers(int64_t count) {
  std::vector<Bf16> numbers(static_cast<size_t>(count));
  for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = ToBf16((i % 251) * 0.01f - 1.25f);
  return numbers;
}

std::optional<double> Over(double amount, std::optional<double> seconds) {
  return seconds ? std::optional(amount / *seconds) : std::nullopt;
}
// What share of the roof it is to do so much in so long.
std::optional<double> Share(double amount, std::optional<double> seconds,
                            std::optional<double> roof) {
  return seconds && roof ? std::optional(amount / *seconds / *roof) : std::nullopt;
}
Json OrNull(std::optional<double> value) { return value ? Json(*value) : Json(nullptr); }

class KernelBench {
 public:
  KernelBench(bool tiny, Report* report) : tiny_(tiny), report_(*report) {}

  std::optional<double> Run() {
    MeasureCopy();
    MeasureProduct();
    for (const bool cublaslt : {false, true}) {
      BackendOptions options = {.backend = "cuda", .device_memory = kMemory};
      options.cuda_gemm = cublaslt ? "cublaslt" : "own";
      auto ops = MakeOps(options);
      if (cublaslt && absl::IsFailedPrecondition(ops.status())) continue;  // MeasureProduct said so
      if (!ops.ok()) {
        report_.Fail("backend", ops.status());
        continue;
      }
      ops_ = *std::move(ops);
      Products(options.cuda_gemm);
      if (!cublaslt) Attentions();
      ops_.reset();
    }
    return roofs_.bytes_per_s;
  }

 private:
  void MeasureCopy() {
    const size_t bytes = tiny_ ? 1 << 16 : size_t{1} << 29;
    void *from = nullptr, *to = nullptr;
    if (cudaMalloc(&from, bytes) == cudaSuccess && cudaMalloc(&to, bytes) == cudaSuccess) {
      const auto seconds = report_.Seconds(
          [&] { cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, nullptr); },
          [] {
            return cudaDeviceSynchronize() == cudaSuccess ? absl::OkStatus()
                                                          : absl::InternalError("cudaMemcpyAsync");
          });
      roofs_.bytes_per_s = Over(2.0 * static_cast<double>(bytes), seconds);
    }
    cudaFree(from);
    cudaFree(to);
    report_.Measured("roof_copy", roofs_.bytes_per_s, "byte/s", {{"bytes", bytes}});
  }

  // Nothing where there is no cuBLASLt.
  void MeasureProduct() {
    const int64_t n = tiny_ ? 72 : 8192;
    Json params = {{"n", n}};
    auto runtime = cuda::Runtime::Create(kMemory);
    if (!runtime.ok()) return report_.Fail("roof_product", runtime.status());
    cuda::Runtime& device = **runtime;
    auto library = cuda::CublasLt::Load(&device);
    if (!library.ok()) {
      params["status"] = library.status().ToString();
    } else {
      const size_t bytes = static_cast<size_t>(n * n) * sizeof(Bf16);
      const auto x = device.Allocate(bytes), w = device.Allocate(bytes),
                 y = device.Allocate(2 * bytes);
      if (x.ok() && w.ok() && y.ok()) {
        const std::vector<Bf16> numbers = Numbers(n * n);
        device.Upload(*x, numbers.data(), bytes);
        device.Upload(*w, numbers.data(), bytes);
        const auto seconds = report_.Seconds(
            [&] {
              (*library)->Multiply({static_cast<Bf16*>(*x), n, n, n}, static_cast<Bf16*>(*w), false,
                                   {static_cast<float*>(*y), n, n, n});
            },
            [&] { return device.Wait(); });
        const auto size = static_cast<double>(n);
        roofs_.flops = Over(2 * size * size * size, seconds);
      }
      for (const auto& memory : {x, w, y}) {
        if (memory.ok()) device.Free(*memory);
      }
    }
    report_.Measured("roof_product", roofs_.flops, "flop/s", params);
  }

  void Measure(const std::string& name, double bytes, double flop,
               const std::function<void()>& work, Json params) {
    const auto seconds = report_.Seconds(work, [this] { return ops_->Wait(); });
    params["bytes"] = bytes;
    params["flop"] = flop;
    params["share_of_copy"] = OrNull(Share(bytes, seconds, roofs_.bytes_per_s));
    params["share_of_product"] = OrNull(Share(flop, seconds, roofs_.flops));
    report_.Measured(name, seconds, "s", std::move(params));
  }

  // Llama 3 8B's gate and up: more than the second-level cache holds in any format.
  void Products(const std::string& by) {
    const int64_t n = tiny_ ? 32 : 28672, k = tiny_ ? 64 : 4096;
    std::vector<int64_t> rows =
        tiny_ ? std::vector<int64_t>{1, 66} : std::vector<int64_t>{1, 16, 64, 128, 256, 512, 2048};
    const std::vector<Bf16> numbers = Numbers(n * k);
    auto x = ops_->Allocate(static_cast<size_t>(rows.back() * k) * sizeof(Bf16));
    auto y = ops_->Allocate(static_cast<size_t>(rows.back() * n) * sizeof(float));
    if (!x.ok() || !y.ok()) return report_.Fail("linear", x.ok() ? y.status() : x.status());
    for (const WeightFormat format :
         {WeightFormat::kBf16, WeightFormat::kFp8, WeightFormat::kInt8, WeightFormat::kInt4}) {
      if (by != "own" && format == WeightFormat::kInt4) continue;  // cuBLASLt gets none
      auto weight = ops_->PackWeight({numbers.data(), n, k, k}, format, WeightShape::kPlain);
      if (!weight.ok()) return report_.Fail("linear", weight.status());
      for (const int64_t m : rows) {
        if (by != "own" && m <= cuda::LargeProducts::kMostRowsOfOurs) continue;
        const double bytes =
            static_cast<double>((*weight)->bytes()) + static_cast<double>(m * (k * 2 + n * 4));
        const double flop = 2.0 * static_cast<double>(m) * static_cast<double>(n * k);
        Measure("linear", bytes, flop,
                [&] {
                  ops_->Linear({(*x)->As<Bf16>(), m, k, k}, **weight, nullptr, false,
                               {(*y)->As<float>(), m, n, n});
                },
                {{"by", by},
                 {"format", std::string(WeightFormatName(format))},
                 {"rows", m},
                 {"n", n},
                 {"k", k}});
      }
    }
  }

  void Attentions() {
    for (const KvFormat format : {KvFormat::kBf16, KvFormat::kInt8, KvFormat::kFp8}) {
      Attention(format, tiny_ ? 2 : 16, 1, tiny_ ? 70 : 8192);     // decoding
      Attention(format, 1, tiny_ ? 20 : 2048, tiny_ ? 20 : 2048);  // a prompt
    }
  }

  void Attention(KvFormat format, int32_t sequences, int32_t rows_each, int32_t slots) {
    const int heads = tiny_ ? 4 : 32, kv_heads = tiny_ ? 2 : 8, head_dim = tiny_ ? 16 : 128;
    KvLayer kv;
    kv.layout = {.kv_heads = kv_heads, .head_dim = head_dim, .format = format};
    const int32_t blocks = (slots + kv.layout.page_tokens - 1) / kv.layout.page_tokens;
    const int64_t rows = int64_t{sequences} * rows_each, width = int64_t{heads} * head_dim;
    std::vector<SequenceRows> places;
    std::vector<int32_t> index;  // positions, then pages
    for (int32_t s = 0; s < sequences; ++s) {
      places.push_back({s * rows_each, rows_each, s * blocks, slots});
      for (int32_t r = 0; r < rows_each; ++r) index.push_back(slots - rows_each + r);
    }
    for (int32_t page = 0; page < sequences * blocks; ++page) index.push_back(page);
    auto pool = ops_->Allocate(static_cast<size_t>(kv.layout.PageBytes() * sequences * blocks));
    auto lists = ops_->Allocate(index.size() * sizeof(int32_t));
    auto q = ops_->Allocate(static_cast<size_t>(rows * width) * 2 * sizeof(Bf16));
    if (!pool.ok() || !lists.ok() || !q.ok()) {
      return report_.Fail("attention", absl::ResourceExhaustedError("device memory"));
    }
    kv.pool = (*pool)->data();
    ops_->Upload((*lists)->data(), index.data(), index.size() * sizeof(int32_t));
    AttentionRows at;
    at.sequences = places;
    at.positions = (*lists)->As<int32_t>();
    at.blocks = (*lists)->As<PageId>() + rows;
    AttentionArgs args;
    args.q = {(*q)->As<Bf16>(), rows, width, width};
    args.heads = heads;
    args.scale = 0.1f;
    args.out = {(*q)->As<Bf16>() + rows * width, rows, width, width};
    const double bytes = static_cast<double>(kv.layout.PageBytes()) * sequences * blocks +
                         static_cast<double>(rows * width * 4);
    // Of a prompt the lower half of the scores.
    const double pairs = static_cast<double>(rows) *
                         (rows_each == 1 ? slots : (static_cast<double>(rows_each) + 1) / 2);
    Measure("attention", bytes, 4 * pairs * static_cast<double>(width),
            [&] { ops_->Attention(args, at, kv); },
            {{"kv_format", std::string(KvFormatName(format))},
             {"heads", heads},
             {"kv_heads", kv_heads},
             {"head_dim", head_dim},
             {"sequences", sequences},
             {"rows", rows},
             {"slots", slots}});
  }

  const bool tiny_;
  Report& report_;
  Roofs roofs_;
  std::unique_ptr<Ops> ops_;
};

}  // namespace

std::optional<double> RunKernelBench(bool tiny, Report* report) {
  return KernelBench(tiny, report).Run();
}

}  // namespace skim
