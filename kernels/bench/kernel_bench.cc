// skim-kernel-bench [isa] [threads]: matrix products against the machine's roofs, measured
// in the same run. One JSON object per line; see docs/benchmarks.md for the names.
#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kernels/bench/attention_bench.h"
#include "kernels/bench/roofs.h"
#include "kernels/bench/timing.h"
#include "kernels/cpu/cores.h"
#include "kernels/cpu/gemm.h"

namespace skim {
namespace {

using Json = nlohmann::ordered_json;

struct Product {
  int64_t n, k;
};

// SmolLM2-135M: qkv, attention output, gate and up, down; then the MLP of a 1B model.
constexpr Product kSmall[] = {{960, 576}, {576, 576}, {3072, 576}, {576, 1536}};
constexpr Product kLarge = {8192, 2048};
// Weights for decoding are walked like the layers of a model, more than caches hold.
constexpr size_t kColdBytes = size_t{512} << 20;

class KernelBench {
 public:
  KernelBench(Isa isa, int threads)
      : isa_(isa), pool_(threads, true), probe_(&pool_), gemm_(&pool_, Kernels()) {}

  void Run() {
    flops_ = MeasureBf16Flops(pool_, isa_);
    Print("roof_bf16_flops", flops_, "flop/s", Json::object());
    int8_ops_ = MeasureInt8Ops(pool_, isa_);
    Print("roof_int8_ops", int8_ops_, "op/s", Json::object());
    Print("roof_read_bytes_per_s", MeasureReadBandwidth(pool_), "byte/s", Json::object());
    for (int f = 0; f < kWeightFormats; ++f) {
      format_ = static_cast<WeightFormat>(f);
      for (int64_t m : {256, 512}) {
        for (const Product& p : kSmall) GemmShare(m, p);
        GemmShare(m, kLarge);
      }
      FewRows();
      ThreadScaling();
    }
    Attention();
  }

 private:
  const GemmKernels& Kernels() const { return GemmKernelsOf(isa_); }

  // Of the unit that multiplies this format.
  double Roof() const {
    const bool integers = format_ == WeightFormat::kInt8 || format_ == WeightFormat::kInt4;
    return integers ? int8_ops_ : flops_;
  }

  void Print(const char* name, double value, const char* unit, Json params,
             double roof_share = -1) const {
    params["isa"] = IsaName(isa_);
    params["threads"] = pool_.threads();
    Json line = {{"suite", "kernels"}, {"name", name}, {"value", value}, {"unit", unit}};
    if (roof_share >= 0) line["roof_share"] = roof_share;
    line["params"] = std::move(params);
    std::printf("%s\n", line.dump().c_str());
    std::fflush(stdout);
  }

  std::unique_ptr<CpuPackedWeight> Weight(const Product& p) {
    std::vector<Bf16> values(p.n * p.k);
    for (size_t i = 0; i < values.size(); ++i) values[i] = ToBf16((i % 251) * 0.01f - 1.25f);
    const Matrix<const Bf16> weight{values.data(), p.n, p.k, p.k};
    return *CpuPackedWeight::Pack(pool_, weight, format_, WeightShape::kPlain);
  }

  using Weights = std::vector<std::unique_ptr<CpuPackedWeight>>;

  // One product with each of the weights.
  static std::function<void()> Products(Gemm& gemm, int64_t m, const Product& p,
                                        const Weights& weights) {
    auto x = std::make_shared<std::vector<Bf16>>(m * p.k, ToBf16(0.5f));
    auto y = std::make_shared<std::vector<float>>(m * p.n);
    return [=, &gemm, &weights] {
      for (const auto& w : weights) {
        gemm.Linear({x->data(), m, p.k, p.k}, *w, nullptr, false, {y->data(), m, p.n, p.n});
      }
    };
  }

  void GemmShare(int64_t m, const Product& p) {
    Weights weights;
    weights.push_back(Weight(p));
    const double ops = 2.0 * m * p.n * p.k / MedianSeconds(Products(gemm_, m, p, weights));
    Print("gemm_share", ops / Roof(), "ratio",
          {{"format", WeightFormatName(format_)}, {"m", m}, {"n", p.n}, {"k", p.k}, {"ops", ops}},
          ops / Roof());
  }

  void FewRows() {
    Weights weights;
    size_t bytes = 0;
    for (; bytes < kColdBytes; bytes += weights.back()->bytes()) weights.push_back(Weight(kLarge));
    const Json shape = {{"format", WeightFormatName(format_)}, {"n", kLarge.n}, {"k", kLarge.k}};
    double one = 0;
    for (int64_t m = 1; m <= 16; ++m) {
      const ReadTiming timing = TimeReading(probe_, bytes, Products(gemm_, m, kLarge, weights));
      Json params = shape;
      params["m"] = m;
      params["bytes_per_s"] = bytes / timing.seconds;
      if (m == 1) {
        one = timing.seconds;
        Print("gemv_share", timing.share, "ratio", params, timing.share);
        continue;
      }
      // The roof: reading the weights once, or the arithmetic, whichever takes longer.
      const double arithmetic = 2.0 * m * kLarge.n * kLarge.k * weights.size() / Roof();
      Print("time_over_one_row", timing.seconds / one, "ratio", params,
            std::max(timing.share, arithmetic / timing.seconds));
    }
  }

  void ThreadScaling() {
    const int64_t m = 512;
    Weights weights;
    weights.push_back(Weight(kLarge));
    ThreadPool single(1, true);
    Gemm alone(&single, Kernels());
    const double one = MedianSeconds(Products(alone, m, kLarge, weights));
    const double all = MedianSeconds(Products(gemm_, m, kLarge, weights));
    Print("thread_scaling", one / all, "ratio",
          {{"format", WeightFormatName(format_)}, {"m", m}, {"n", kLarge.n}, {"k", kLarge.k}});
  }

  void Attention() {
    for (const AttentionShare& a : MeasureAttention(pool_, isa_, flops_, probe_)) {
      Print(a.name.c_str(), a.share, "ratio",
            {{"kv_format", KvFormatName(a.kv_format)},
             {"heads", a.heads},
             {"kv_heads", a.kv_heads},
             {"head_dim", a.head_dim},
             {"context", a.context},
             {"rate", a.rate}},
            a.share);
    }
  }

  const Isa isa_;
  ThreadPool pool_;
  ReadProbe probe_;
  Gemm gemm_;
  WeightFormat format_ = WeightFormat::kBf16;
  double flops_ = 0;
  double int8_ops_ = 0;
};

int Main(int argc, char** argv) {
  const auto isa = ChooseIsa(argc > 1 ? argv[1] : "auto");
  int threads = static_cast<int>(PhysicalCores().size());
  bool usable = argc <= 3;
  if (argc > 2) {
    const char* end = argv[2] + std::strlen(argv[2]);
    const auto parsed = std::from_chars(argv[2], end, threads);
    usable =
        usable && parsed.ec == std::errc() && parsed.ptr == end && threads >= 1 && threads <= 1024;
  }
  if (!isa.ok() || !usable) {
    const std::string why = isa.ok() ? "bad arguments" : std::string(isa.status().message());
    std::fprintf(stderr, "%s\nusage: skim-kernel-bench [isa] [threads]\n", why.c_str());
    return 2;
  }
  KernelBench(*isa, threads).Run();
  return 0;
}

}  // namespace
}  // namespace skim

int main(int argc, char** argv) { return skim::Main(argc, argv); }
