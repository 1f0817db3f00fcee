// skim-kernel-bench [isa] [threads]: matrix products against the machine's roofs, measured
// in the same run. One JSON object per line; see docs/benchmarks.md for the names.
#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kernels/bench/attention_bench.h"
#include "kernels/bench/roofs.h"
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
  KernelBench(Isa isa, int threads) : isa_(isa), pool_(threads, true), gemm_(&pool_, Kernels()) {}

  void Run() {
    flops_ = MeasureBf16Flops(pool_, isa_);
    Print("roof_bf16_flops", flops_, "flop/s", Json::object());
    int8_ops_ = MeasureInt8Ops(pool_, isa_);
    Print("roof_int8_ops", int8_ops_, "op/s", Json::object());
    bandwidth_ = MeasureReadBandwidth(pool_);
    Print("roof_read_bytes_per_s", bandwidth_, "byte/s", Json::object());
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

  // Median of the repetitions; the first, which warms up, does not count.
  static double MedianSeconds(const std::function<void()>& work) {
    std::vector<double> seconds;
    double total = 0;
    for (int i = 0; i < 3 || (i < 9 && total < 2) || (i < 500 && total < 0.3); ++i) {
      const auto start = std::chrono::steady_clock::now();
      work();
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
      if (i > 0) seconds.push_back(took.count());
      total += took.count();
    }
    std::nth_element(seconds.begin(), seconds.begin() + seconds.size() / 2, seconds.end());
    return seconds[seconds.size() / 2];
  }

  std::unique_ptr<CpuPackedWeight> Weight(const Product& p) {
    std::vector<Bf16> values(p.n * p.k);
    for (size_t i = 0; i < values.size(); ++i) values[i] = ToBf16((i % 251) * 0.01f - 1.25f);
    const Matrix<const Bf16> weight{values.data(), p.n, p.k, p.k};
    return *CpuPackedWeight::Pack(pool_, weight, format_, WeightShape::kPlain);
  }

  double LinearSeconds(Gemm& gemm, int64_t m, const Product& p,
                       const std::vector<std::unique_ptr<CpuPackedWeight>>& weights) {
    std::vector<Bf16> x(m * p.k, ToBf16(0.5f));
    std::vector<float> y(m * p.n);
    return MedianSeconds([&] {
             for (const auto& w : weights) {
               gemm.Linear({x.data(), m, p.k, p.k}, *w, nullptr, false, {y.data(), m, p.n, p.n});
             }
           }) /
           weights.size();
  }

  void GemmShare(int64_t m, const Product& p) {
    std::vector<std::unique_ptr<CpuPackedWeight>> weights;
    weights.push_back(Weight(p));
    const double ops = 2.0 * m * p.n * p.k / LinearSeconds(gemm_, m, p, weights);
    Print("gemm_share", ops / Roof(), "ratio",
          {{"format", WeightFormatName(format_)}, {"m", m}, {"n", p.n}, {"k", p.k}, {"ops", ops}},
          ops / Roof());
  }

  void FewRows() {
    std::vector<std::unique_ptr<CpuPackedWeight>> weights;
    for (size_t bytes = 0; bytes < kColdBytes; bytes += weights.back()->bytes()) {
      weights.push_back(Weight(kLarge));
    }
    const double one = LinearSeconds(gemm_, 1, kLarge, weights);
    const double rate = weights[0]->bytes() / one;
    const Json shape = {{"format", WeightFormatName(format_)}, {"n", kLarge.n}, {"k", kLarge.k}};
    Json params = shape;
    params["m"] = 1;
    params["bytes_per_s"] = rate;
    Print("gemv_share", rate / bandwidth_, "ratio", params, rate / bandwidth_);
    for (int64_t m = 2; m <= 16; ++m) {
      params = shape;
      params["m"] = m;
      const double seconds = LinearSeconds(gemm_, m, kLarge, weights);
      // The roof: reading the weights once, or the arithmetic, whichever takes longer.
      const double least =
          std::max(weights[0]->bytes() / bandwidth_, 2.0 * m * kLarge.n * kLarge.k / Roof());
      Print("time_over_one_row", seconds / one, "ratio", params, least / seconds);
    }
  }

  void ThreadScaling() {
    const int64_t m = 512;
    std::vector<std::unique_ptr<CpuPackedWeight>> weights;
    weights.push_back(Weight(kLarge));
    ThreadPool single(1, true);
    Gemm alone(&single, Kernels());
    const double one = LinearSeconds(alone, m, kLarge, weights);
    const double all = LinearSeconds(gemm_, m, kLarge, weights);
    Print("thread_scaling", one / all, "ratio",
          {{"format", WeightFormatName(format_)}, {"m", m}, {"n", kLarge.n}, {"k", kLarge.k}});
  }

  void Attention() {
    for (const AttentionShare& a :
         MeasureAttention(pool_, isa_, flops_, bandwidth_, MedianSeconds)) {
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
  Gemm gemm_;
  WeightFormat format_ = WeightFormat::kBf16;
  double flops_ = 0;
  double int8_ops_ = 0;
  double bandwidth_ = 0;
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
