// Products through the stand-in for cuBLASLt: right ones, ones that it must refuse, and ones that
// it must stop.
#include <cublasLt.h>

#include <vector>

#include "base/bf16.h"
#include "tests/ptxsim/programs.h"

namespace {

using skim::Bf16;

// y = x W^T of whole numbers, row-major, and what may be wrong about it.
struct Mistakes {
  cudaDataType_t type = CUDA_R_16BF;  // of W
  int64_t stride = kInputs;           // of W
  uint64_t inputs = kInputs;          // of W
  cublasOperation_t of_w = CUBLAS_OP_T;
  size_t workspace = kWorkspace;
  uint64_t w_offset = 0, workspace_offset = 0;  // bytes
  bool host_x = false, forget = false;
  int64_t stride_at_run = 0;  // of x, if other than when the algorithm was chosen

  static constexpr int kRows = 3, kFeatures = 5, kInputs = 8;
  static constexpr size_t kWorkspace = 1 << 20;
};

constexpr int kRows = Mistakes::kRows, kFeatures = Mistakes::kFeatures, kInputs = Mistakes::kInputs;

struct Outcome {
  cublasStatus_t chosen = CUBLAS_STATUS_SUCCESS, multiplied = CUBLAS_STATUS_SUCCESS;
  bool right = false;
};

int Multiply(const Mistakes& mistakes, Outcome* outcome) {
  std::vector<Bf16> x(kRows * kInputs), w(kFeatures * kInputs);
  for (size_t i = 0; i < x.size(); ++i) x[i] = skim::ToBf16(static_cast<float>(i % 7) - 3);
  for (size_t i = 0; i < w.size(); ++i) w[i] = skim::ToBf16(static_cast<float>(i % 5) - 2);
  std::vector<float> y(kRows * kFeatures, 1.0f), got(y.size());
  void *device_x, *device_w, *device_y, *workspace;
  MUST(cudaMalloc(&device_x, x.size() * sizeof(Bf16)));
  MUST(cudaMalloc(&device_w, w.size() * sizeof(Bf16)));
  MUST(cudaMalloc(&device_y, y.size() * sizeof(float)));
  MUST(cudaMalloc(&workspace, Mistakes::kWorkspace + 256));
  MUST(cudaMemcpy(device_x, x.data(), x.size() * sizeof(Bf16), cudaMemcpyHostToDevice));
  MUST(cudaMemcpy(device_w, w.data(), w.size() * sizeof(Bf16), cudaMemcpyHostToDevice));
  MUST(cudaMemcpy(device_y, y.data(), y.size() * sizeof(float), cudaMemcpyHostToDevice));
  cublasLtHandle_t handle;
  cublasLtMatmulDesc_t operation;
  cublasLtMatrixLayout_t w_layout, x_layout, y_layout, x_at_run;
  cublasLtMatmulPreference_t preference;
  cublasLtCreate(&handle);
  cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F);
  cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSA, &mistakes.of_w,
                                 sizeof(mistakes.of_w));
  cublasLtMatrixLayoutCreate(&w_layout, mistakes.type, mistakes.inputs, kFeatures, mistakes.stride);
  cublasLtMatrixLayoutCreate(&x_layout, CUDA_R_16BF, kInputs, kRows, kInputs);
  cublasLtMatrixLayoutCreate(&x_at_run, CUDA_R_16BF, kInputs, kRows,
                             kInputs + mistakes.stride_at_run);
  cublasLtMatrixLayoutCreate(&y_layout, CUDA_R_32F, kFeatures, kRows, kFeatures);
  cublasLtMatmulPreferenceCreate(&preference);
  const uint64_t most = Mistakes::kWorkspace;
  cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &most,
                                       sizeof(most));
  cublasLtMatmulHeuristicResult_t result;
  int found = 0;
  outcome->chosen = cublasLtMatmulAlgoGetHeuristic(handle, operation, w_layout, x_layout, y_layout,
                                                   y_layout, preference, 1, &result, &found);
  if (outcome->chosen == CUBLAS_STATUS_SUCCESS) {
    const float one = 1;
    outcome->multiplied = cublasLtMatmul(
        handle, operation, &one, static_cast<char*>(device_w) + mistakes.w_offset, w_layout,
        mistakes.host_x ? x.data() : device_x, x_at_run, &one, device_y, y_layout, device_y,
        y_layout, &result.algo, static_cast<char*>(workspace) + mistakes.workspace_offset,
        mistakes.workspace, nullptr);
  }
  MUST(cudaMemcpy(got.data(), device_y, got.size() * sizeof(float), cudaMemcpyDeviceToHost));
  outcome->right = true;
  for (int r = 0; r < kRows; ++r) {
    for (int f = 0; f < kFeatures; ++f) {
      float want = 1;
      for (int k = 0; k < kInputs; ++k) {
        want += skim::ToFloat(x[r * kInputs + k]) * skim::ToFloat(w[f * kInputs + k]);
      }
      outcome->right &= got[r * kFeatures + f] == want;
    }
  }
  cublasLtMatmulPreferenceDestroy(preference);
  for (auto* layout : {w_layout, x_layout, x_at_run, y_layout}) cublasLtMatrixLayoutDestroy(layout);
  cublasLtMatmulDescDestroy(operation);
  if (!mistakes.forget) cublasLtDestroy(handle);
  for (void* memory : {device_x, device_w, device_y, workspace}) MUST(cudaFree(memory));
  return 0;
}

int Over(const Mistakes& mistakes) {
  Outcome outcome;
  return Multiply(mistakes, &outcome);
}

int MatmulProgram() {
  Outcome outcome;
  EXPECT(Multiply({}, &outcome) == 0);
  EXPECT(outcome.right);
  EXPECT(Multiply({.type = CUDA_R_32F}, &outcome) == 0);
  EXPECT(outcome.chosen == CUBLAS_STATUS_NOT_SUPPORTED);
  EXPECT(Multiply({.stride = kInputs - 1}, &outcome) == 0);
  EXPECT(outcome.chosen == CUBLAS_STATUS_INVALID_VALUE);
  EXPECT(Multiply({.inputs = kInputs - 1}, &outcome) == 0);
  EXPECT(outcome.chosen == CUBLAS_STATUS_INVALID_VALUE);
  EXPECT(Multiply({.of_w = CUBLAS_OP_N}, &outcome) == 0);
  EXPECT(outcome.chosen == CUBLAS_STATUS_INVALID_VALUE);
  EXPECT(Multiply({.workspace = 1024}, &outcome) == 0);
  EXPECT(outcome.multiplied == CUBLAS_STATUS_INVALID_VALUE);
  EXPECT(Multiply({.stride_at_run = 8}, &outcome) == 0);
  EXPECT(outcome.multiplied == CUBLAS_STATUS_INVALID_VALUE);
  return 0;
}

}  // namespace

Programs MatmulPrograms() {
  return {{"matmul", MatmulProgram},
          {"matmul-past-the-end", [] { return Over({.stride = kInputs + 8}); }},
          {"matmul-misaligned", [] { return Over({.w_offset = 16}); }},
          {"matmul-workspace-misaligned", [] { return Over({.workspace_offset = 128}); }},
          {"matmul-host-pointer", [] { return Over({.host_x = true}); }},
          {"matmul-leak", [] { return Over({.forget = true}); }}};
}
