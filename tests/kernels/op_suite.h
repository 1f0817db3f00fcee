// The op suite: what every backend must compute, judged by double-precision loops. A backend
// that is not built, or has no device or library here, is skipped.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/backend.h"
#include "tests/kernels/op_scene.h"

namespace skim {

// What results may differ by, relative to the magnitudes that were summed. bf16 results also
// carry one rounding of 2^-9.
struct OpTolerance {
  double float_sum = 1e-5;      // float32 sums of a few hundred terms in any order
  double bf16_result = 0x1p-8;  // one rounding, and the sum's error
  double attention = 0x1p-7;    // probabilities may be rounded to bf16, too
  double log_sum_exp = 0x1p-8;
  double logprob = 1e-4;  // absolute
  double draw = 1e-5;     // of the cumulative probability
};
inline constexpr OpTolerance kOpTolerance;

// CUDA with products of many rows by the library.
inline constexpr char kCublasLt[] = "cuda_cublaslt";

class OpSuite : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    BackendOptions options = {.backend = GetParam(), .threads = 2, .pin_threads = false};
    if (GetParam() == kCublasLt) options.backend = "cuda", options.cuda_gemm = "cublaslt";
    auto ops = MakeOps(options);
    if (ops.status().code() == absl::StatusCode::kFailedPrecondition) {
      GTEST_SKIP() << ops.status().message();
    }
    ASSERT_TRUE(ops.ok()) << ops.status();
    ops_ = *std::move(ops);
    scene_ = std::make_unique<OpScene>(ops_.get());
  }

  OpScene& scene() { return *scene_; }
  Ops& ops() { return *ops_; }

 private:
  std::unique_ptr<Ops> ops_;
  std::unique_ptr<OpScene> scene_;
};

// Products, which a backend may have more ways for.
class ProductSuite : public OpSuite {};

}  // namespace skim
