// Products through the stand-in for cuBLASLt: right ones, ones that it must refuse, and ones that
// it must stop.
#include <cublasLt.h>

#include <type_traits>
#include <vector>

#include "base/bf16.h"
#include "tests/ptxsim/programs.h"

namespace {

using skim::Bf16;

constexpr int kRows = 3, kInputs = 8;
constexpr size_t kWorkspace = 1 << 20;

// Whole numbers of a type, and what they are added up in.
Bf16 Make(int x, Bf16) { return skim::ToBf16(static_cast<float>(x)); }
int8_t Make(int x, int8_t) { return static_cast<int8_t>(x); }
float Value(Bf16 x) { return skim::ToFloat(x); }
int32_t Value(int8_t x) { return x; }
template <typename In>
using Sum = decltype(Value(In()));
template <typename In>
constexpr bool kIntegers = std::is_same_v<In, int8_t>;

// y += x W^T of whole numbers, row-major, and what may be wrong about it.
template <typename In>
struct Mistakes {
  cudaDataType_t type = kIntegers<In> ? CUDA_R_8I : CUDA_R_16BF;   // of W
  cudaDataType_t scale = kIntegers<In> ? CUDA_R_32I : CUDA_R_32F;  // of the factors
  cudaDataType_t sums = scale;                                     // of y
  cublasComputeType_t compute = kIntegers<In> ? CUBLAS_COMPUTE_32I : CUBLAS_COMPUTE_32F;
  int features = kIntegers<In> ? 8 : 5;
  int64_t stride = kInputs;     // of W
  uint64_t inputs = kInputs;    // of W
  uint64_t x_inputs = kInputs;  // of x
  int64_t y_stride_more = 0;    // than features
  cublasOperation_t of_w = CUBLAS_OP_T, of_x = CUBLAS_OP_N;
  size_t workspace = kWorkspace;
  uint64_t w_offset = 0, workspace_offset = 0;  // bytes
  bool host_x = false, forget = false;
  int64_t stride_at_run = 0;  // of x, if other than when the algorithm was chosen
  int factor = 1;
  uint32_t promised = 256;  // alignment of W and x
  int there = 1;            // in y
};

struct Outcome {
  cublasStatus_t chosen = CUBLAS_STATUS_SUCCESS, multiplied = CUBLAS_STATUS_SUCCESS;
  bool right = false;
};

template <typename In>
int Multiply(const Mistakes<In>& mistakes, Outcome* outcome) {
  const int features = mistakes.features;
  std::vector<In> x(kRows * kInputs), w(features * kInputs);
  for (size_t i = 0; i < x.size(); ++i) x[i] = Make(static_cast<int>(i % 7) - 3, In());
  for (size_t i = 0; i < w.size(); ++i) w[i] = Make(static_cast<int>(i % 5) - 2, In());
  std::vector<Sum<In>> y(kRows * features, static_cast<Sum<In>>(mistakes.there)), got(y.size());
  void *device_x, *device_w, *device_y, *workspace;
  MUST(cudaMalloc(&device_x, x.size() * sizeof(In)));
  MUST(cudaMalloc(&device_w, w.size() * sizeof(In)));
  MUST(cudaMalloc(&device_y, y.size() * sizeof(y[0])));
  MUST(cudaMalloc(&workspace, kWorkspace + 256));
  MUST(cudaMemcpy(device_x, x.data(), x.size() * sizeof(In), cudaMemcpyHostToDevice));
  MUST(cudaMemcpy(device_w, w.data(), w.size() * sizeof(In), cudaMemcpyHostToDevice));
  MUST(cudaMemcpy(device_y, y.data(), y.size() * sizeof(y[0]), cudaMemcpyHostToDevice));
  cublasLtHandle_t handle;
  cublasLtMatmulDesc_t operation;
  cublasLtMatrixLayout_t w_layout, x_layout, y_layout, x_at_run;
  cublasLtMatmulPreference_t preference;
  const cudaDataType_t type_of_x = Mistakes<In>().type;
  cublasLtCreate(&handle);
  cublasLtMatmulDescCreate(&operation, mistakes.compute, mistakes.scale);
  cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSA, &mistakes.of_w,
                                 sizeof(mistakes.of_w));
  cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSB, &mistakes.of_x,
                                 sizeof(mistakes.of_x));
  cublasLtMatrixLayoutCreate(&w_layout, mistakes.type, mistakes.inputs, features, mistakes.stride);
  cublasLtMatrixLayoutCreate(&x_layout, type_of_x, mistakes.x_inputs, kRows, kInputs);
  cublasLtMatrixLayoutCreate(&x_at_run, type_of_x, mistakes.x_inputs, kRows,
                             kInputs + mistakes.stride_at_run);
  cublasLtMatrixLayoutCreate(&y_layout, mistakes.sums, features, kRows,
                             features + mistakes.y_stride_more);
  cublasLtMatmulPreferenceCreate(&preference);
  const uint64_t most = kWorkspace;
  cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &most,
                                       sizeof(most));
  for (const auto operand :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES}) {
    cublasLtMatmulPreferenceSetAttribute(preference, operand, &mistakes.promised,
                                         sizeof(mistakes.promised));
  }
  cublasLtMatmulHeuristicResult_t result;
  int found = 0;
  outcome->chosen = cublasLtMatmulAlgoGetHeuristic(handle, operation, w_layout, x_layout, y_layout,
                                                   y_layout, preference, 1, &result, &found);
  if (outcome->chosen == CUBLAS_STATUS_SUCCESS) {
    const auto alpha = static_cast<Sum<In>>(mistakes.factor), beta = Sum<In>{1};
    outcome->multiplied = cublasLtMatmul(
        handle, operation, &alpha, static_cast<char*>(device_w) + mistakes.w_offset, w_layout,
        mistakes.host_x ? x.data() : device_x, x_at_run, &beta, device_y, y_layout, device_y,
        y_layout, &result.algo, static_cast<char*>(workspace) + mistakes.workspace_offset,
        mistakes.workspace, nullptr);
  }
  MUST(cudaMemcpy(got.data(), device_y, got.size() * sizeof(y[0]), cudaMemcpyDeviceToHost));
  outcome->right = true;
  for (int r = 0; r < kRows; ++r) {
    for (int f = 0; f < features; ++f) {
      Sum<In> want = y[0];
      for (int k = 0; k < kInputs; ++k)
        want += Value(x[r * kInputs + k]) * Value(w[f * kInputs + k]);
      outcome->right &= got[r * features + f] == want;
    }
  }
  cublasLtMatmulPreferenceDestroy(preference);
  for (auto* layout : {w_layout, x_layout, x_at_run, y_layout}) cublasLtMatrixLayoutDestroy(layout);
  cublasLtMatmulDescDestroy(operation);
  if (!mistakes.forget) cublasLtDestroy(handle);
  for (void* memory : {device_x, device_w, device_y, workspace}) MUST(cudaFree(memory));
  return 0;
}

using Floats = Mistakes<Bf16>;
using Integers = Mistakes<int8_t>;

template <typename In>
int Over(const Mistakes<In>& mistakes) {
  Outcome outcome;
  return Multiply(mistakes, &outcome);
}

// How the choice of an algorithm ended, or if there was one the product.
template <typename In>
cublasStatus_t StatusOf(const Mistakes<In>& mistakes) {
  Outcome outcome;
  if (Multiply(mistakes, &outcome) != 0) return CUBLAS_STATUS_INTERNAL_ERROR;
  return outcome.chosen != CUBLAS_STATUS_SUCCESS ? outcome.chosen : outcome.multiplied;
}

int MatmulProgram() {
  Outcome outcome;
  EXPECT(Multiply(Floats{}, &outcome) == 0 && outcome.right);
  EXPECT(StatusOf(Floats{.type = CUDA_R_32F}) == CUBLAS_STATUS_NOT_SUPPORTED);
  EXPECT(StatusOf(Floats{.stride = kInputs - 1}) == CUBLAS_STATUS_INVALID_VALUE);
  EXPECT(StatusOf(Floats{.inputs = kInputs - 1}) == CUBLAS_STATUS_INVALID_VALUE);
  EXPECT(StatusOf(Floats{.of_w = CUBLAS_OP_N}) == CUBLAS_STATUS_INVALID_VALUE);
  EXPECT(StatusOf(Floats{.workspace = 1024}) == CUBLAS_STATUS_INVALID_VALUE);
  EXPECT(StatusOf(Floats{.stride_at_run = 8}) == CUBLAS_STATUS_INVALID_VALUE);
  return 0;
}

int IntegersProgram() {
  constexpr cublasStatus_t kRefused = CUBLAS_STATUS_NOT_SUPPORTED;
  Outcome outcome;
  EXPECT(Multiply(Integers{}, &outcome) == 0 && outcome.right);
  EXPECT(StatusOf(Integers{.type = CUDA_R_16BF}) == kRefused);
  EXPECT(StatusOf(Integers{.scale = CUDA_R_32F}) == kRefused);
  EXPECT(StatusOf(Integers{.sums = CUDA_R_32F}) == kRefused);
  EXPECT(StatusOf(Integers{.compute = CUBLAS_COMPUTE_32F}) == kRefused);
  EXPECT(StatusOf(Integers{.features = 6}) == kRefused);
  EXPECT(StatusOf(Integers{.inputs = 6, .x_inputs = 6}) == kRefused);
  EXPECT(StatusOf(Integers{.stride = kInputs + 2}) == kRefused);
  EXPECT(StatusOf(Integers{.y_stride_more = 2}) == kRefused);
  EXPECT(StatusOf(Integers{.factor = 2}) == kRefused);
  // A square W fits either way, but integers want it transposed.
  EXPECT(StatusOf(Integers{.features = kInputs, .of_w = CUBLAS_OP_N}) == kRefused);
  // As many rows as inputs would do the same for x; there are fewer.
  EXPECT(StatusOf(Integers{.of_x = CUBLAS_OP_T}) == CUBLAS_STATUS_INVALID_VALUE);
  return 0;
}

}  // namespace

Programs MatmulPrograms() {
  return {
      {"matmul", MatmulProgram},
      {"matmul-integers", IntegersProgram},
      {"matmul-past-the-end", [] { return Over(Floats{.stride = kInputs + 8}); }},
      {"matmul-misaligned", [] { return Over(Floats{.w_offset = 16}); }},
      {"matmul-workspace-misaligned", [] { return Over(Floats{.workspace_offset = 128}); }},
      {"matmul-host-pointer", [] { return Over(Floats{.host_x = true, .promised = 16}); }},
      {"matmul-leak", [] { return Over(Floats{.forget = true}); }},
      {"matmul-integers-past-the-end", [] { return Over(Integers{.stride = kInputs + 8}); }},
      {"matmul-integers-misaligned", [] { return Over(Integers{.w_offset = 2, .promised = 2}); }},
      {"matmul-integers-too-large", [] { return Over(Integers{.there = 0x7fffffff}); }}};
}
