// Stands in for libcublasLt: the entry points that kernels/cuda uses, on the simulated device. It
// holds a program to what cublasLt.h and the manual (cublasLtMatmul) say of layouts, types,
// alignment, workspace and the algorithm, and multiplies on the host when the stream gets there.
// Preloaded, it is found by dlopen under the library's name.
//
// It is stricter where the library has a choice: its algorithms want every byte of alignment that
// the preferences promise and workspace if they may have any, and scribble over it. Factors of
// integers are 0 or 1, and their sums must fit.
#include <cublasLt.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <set>
#include <type_traits>

#include "base/bf16.h"
#include "tests/ptxsim/device.h"
#include "tests/ptxsim/fault.h"
#include "tests/ptxsim/runtime.h"

namespace {

using ptxsim::Device;
using ptxsim::Fault;

constexpr size_t kWorkspaceAlign = 256;
constexpr uint64_t kMostWorkspace = 1 << 20;  // that an algorithm asks for

struct Layout {
  cudaDataType_t type;
  uint64_t rows, cols;
  int64_t stride;
  bool operator==(const Layout&) const = default;
};
struct Operation {
  cublasComputeType_t compute;
  cudaDataType_t scale;
  cublasOperation_t a = CUBLAS_OP_N, b = CUBLAS_OP_N;
};
struct Preference {
  uint64_t workspace = 0;
  uint32_t align[4] = {256, 256, 256, 256};  // A, B, C, D
};
// What an algorithm was chosen for.
struct Choice {
  Layout a, b, c, d;
  cublasOperation_t transpose_a, transpose_b;
  cudaDataType_t scale;
  uint32_t align[4];
  uint64_t workspace;
};

std::set<const void*> live;   // handles and descriptors
size_t products = 0;          // enqueued
std::vector<Choice> choices;  // an algorithm is an index, + 1

struct EndCheck {
  ~EndCheck() {
    if (!live.empty()) Fault("leak: a cuBLASLt handle or descriptor is never destroyed");
  }
} end_check;

template <typename T, typename Handle>
cublasStatus_t Create(Handle* handle, T value) {
  auto* made = new T(value);
  live.insert(made);
  *handle = reinterpret_cast<Handle>(made);
  return CUBLAS_STATUS_SUCCESS;
}

template <typename T>
T& Get(const void* handle) {
  if (!live.contains(handle)) Fault("a cuBLASLt handle or descriptor that does not exist");
  return *static_cast<T*>(const_cast<void*>(handle));
}

template <typename T>
cublasStatus_t Destroy(const void* handle) {
  delete &Get<T>(handle);
  live.erase(handle);
  return CUBLAS_STATUS_SUCCESS;
}

template <typename T>
cublasStatus_t Set(T* field, const void* value, size_t bytes) {
  if (value == nullptr || bytes != sizeof(T)) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(field, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

size_t SizeOf(cudaDataType_t type) {
  switch (type) {
    case CUDA_R_8I:
      return 1;
    case CUDA_R_16BF:
      return 2;
    default:
      return 4;
  }
}

// Numbers that go together.
bool AreFloats(const Operation& operation, const Layout& a, const Layout& b, const Layout& d) {
  return operation.compute == CUBLAS_COMPUTE_32F && operation.scale == CUDA_R_32F &&
         a.type == CUDA_R_16BF && b.type == CUDA_R_16BF && d.type == CUDA_R_32F;
}
bool AreIntegers(const Operation& operation, const Layout& a, const Layout& b, const Layout& d) {
  return operation.compute == CUBLAS_COMPUTE_32I && operation.scale == CUDA_R_32I &&
         a.type == CUDA_R_8I && b.type == CUDA_R_8I && d.type == CUDA_R_32I;
}

// What the manual asks of integers in the regular order of data.
constexpr uint32_t kIntegerUnit = 4;  // numbers of a dimension, bytes of an address
bool IntegersCanBe(const Operation& operation, const Layout& a, const Layout& b, const Layout& c,
                   const Layout& d) {
  const uint64_t m = d.rows, k = a.rows;
  return operation.a == CUBLAS_OP_T && operation.b == CUBLAS_OP_N && m % kIntegerUnit == 0 &&
         k % kIntegerUnit == 0 && a.stride % kIntegerUnit == 0 && b.stride % kIntegerUnit == 0 &&
         c.stride % kIntegerUnit == 0 && d.stride % kIntegerUnit == 0;
}

// The descriptors fit each other, and this kind of product is one that is computed here.
cublasStatus_t Judge(const Operation& operation, const Layout& a, const Layout& b, const Layout& c,
                     const Layout& d) {
  const bool at = operation.a == CUBLAS_OP_T, bt = operation.b == CUBLAS_OP_T;
  const uint64_t m = at ? a.cols : a.rows, k = at ? a.rows : a.cols;
  const uint64_t n = bt ? b.rows : b.cols;
  if ((bt ? b.cols : b.rows) != k || d.rows != m || d.cols != n || c.rows != m || c.cols != n ||
      c.type != d.type || m == 0 || n == 0 || k == 0) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  for (const Layout* layout : {&a, &b, &c, &d}) {
    if (layout->stride < static_cast<int64_t>(layout->rows)) return CUBLAS_STATUS_INVALID_VALUE;
  }
  const bool can_be = AreFloats(operation, a, b, d) ||
                      (AreIntegers(operation, a, b, d) && IntegersCanBe(operation, a, b, c, d));
  return can_be ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

// A matrix on the device, column by column, each checked as a whole.
class Columns {
 public:
  Columns(uint64_t address, const Layout& layout, const char* what)
      : address_(address), layout_(layout), what_(what) {}
  uint8_t* At(uint64_t column) const {
    return Device::Get().memory().At(address_ + column * layout_.stride * SizeOf(layout_.type),
                                     layout_.rows * SizeOf(layout_.type), SizeOf(layout_.type),
                                     what_);
  }
  // Of type T.
  template <typename T>
  std::vector<T> Column(uint64_t column) const {
    std::vector<T> numbers(layout_.rows);
    std::memcpy(numbers.data(), At(column), numbers.size() * sizeof(T));
    return numbers;
  }

 private:
  const uint64_t address_;
  const Layout layout_;
  const char* const what_;
};

float Number(skim::Bf16 x) { return skim::ToFloat(x); }
int64_t Number(int8_t x) { return x; }

// op(matrix) by what it is multiplied along: [the other dimension][k].
template <typename In>
auto Operand(const Columns& columns, const Layout& layout, bool along) {
  std::vector<std::vector<decltype(Number(In()))>> operand(along ? layout.cols : layout.rows);
  for (uint64_t c = 0; c < layout.cols; ++c) {
    const std::vector<In> column = columns.Column<In>(c);
    for (uint64_t r = 0; r < layout.rows; ++r) operand[along ? c : r].push_back(Number(column[r]));
  }
  return operand;
}

struct Product {
  Choice choice;
  uint64_t a, b, c, d, workspace;
  double alpha, beta;

  void Run() const {
    if (choice.workspace > 0) {
      std::memset(Device::Get().memory().At(workspace, choice.workspace, 1, "the workspace"), 0xff,
                  choice.workspace);
    }
    if (choice.a.type == CUDA_R_8I) return Multiply<int8_t, int32_t, int64_t>();
    Multiply<skim::Bf16, float, float>();
  }

 private:
  template <typename In, typename Out, typename Sum>
  void Multiply() const {
    const auto left =
        Operand<In>(Columns(a, choice.a, "matrix A"), choice.a, choice.transpose_a == CUBLAS_OP_T);
    const auto right =
        Operand<In>(Columns(b, choice.b, "matrix B"), choice.b, choice.transpose_b == CUBLAS_OP_N);
    const Columns in(c, choice.c, "matrix C"), out(d, choice.d, "matrix D");
    const auto factor = static_cast<Sum>(alpha), kept = static_cast<Sum>(beta);
    for (uint64_t n = 0; n < choice.d.cols; ++n) {
      std::vector<Out> column(choice.d.rows);
      if (kept != 0) column = in.Column<Out>(n);
      for (uint64_t m = 0; m < choice.d.rows; ++m) {
        Sum sum = 0;
        for (size_t k = 0; k < right[n].size(); ++k) sum += left[m][k] * right[n][k];
        sum = factor * sum + (kept == 0 ? Sum{0} : kept * static_cast<Sum>(column[m]));
        if constexpr (std::is_integral_v<Out>) {
          if (sum < std::numeric_limits<Out>::min() || sum > std::numeric_limits<Out>::max()) {
            Fault("cublasLtMatmul: a sum of integers does not fit");
          }
        }
        column[m] = static_cast<Out>(sum);
      }
      std::memcpy(out.At(n), column.data(), column.size() * sizeof(Out));
    }
  }
};

}  // namespace

extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) { return Create(handle, 0); }
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) { return Destroy<int>(handle); }

const char* cublasLtGetStatusName(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "CUBLAS_STATUS_NOT_SUPPORTED";
    default:
      return "another status";
  }
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* operation,
                                        cublasComputeType_t compute, cudaDataType_t scale) {
  return Create(operation, Operation{compute, scale});
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t operation) {
  return Destroy<Operation>(operation);
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t handle,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, size_t bytes) {
  auto& operation = Get<Operation>(handle);
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
      return Set(&operation.a, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
      return Set(&operation.b, value, bytes);
    default:
      Fault("cublasLtMatmulDescSetAttribute: attribute not modelled");
  }
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type,
                                          uint64_t rows, uint64_t cols, int64_t stride) {
  return Create(layout, Layout{type, rows, cols, stride});
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  return Destroy<Layout>(layout);
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  return Create(preference, Preference{});
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  return Destroy<Preference>(preference);
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t handle,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void* value, size_t bytes) {
  auto& preference = Get<Preference>(handle);
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
      return Set(&preference.workspace, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
      return Set(&preference.align[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], value,
                 bytes);
    default:
      Fault("cublasLtMatmulPreferenceSetAttribute: attribute not modelled");
  }
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle,
                                              cublasLtMatmulDesc_t operation_handle,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference_handle,
                                              int wanted, cublasLtMatmulHeuristicResult_t results[],
                                              int* found) {
  Get<int>(handle);
  if (wanted <= 0) return CUBLAS_STATUS_INVALID_VALUE;
  const auto& operation = Get<Operation>(operation_handle);
  const auto& preference = Get<Preference>(preference_handle);
  Choice choice = {Get<Layout>(a),
                   Get<Layout>(b),
                   Get<Layout>(c),
                   Get<Layout>(d),
                   operation.a,
                   operation.b,
                   operation.scale,
                   {},
                   0};
  const cublasStatus_t status = Judge(operation, choice.a, choice.b, choice.c, choice.d);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  std::copy_n(preference.align, 4, choice.align);
  if (choice.scale == CUDA_R_32I) {
    for (uint32_t& align : choice.align) align = std::max(align, kIntegerUnit);
  }
  choice.workspace = std::min(preference.workspace, kMostWorkspace);
  choices.push_back(choice);
  results[0] = {};
  results[0].algo.data[0] = choices.size();
  results[0].workspaceSize = choice.workspace;
  results[0].state = CUBLAS_STATUS_SUCCESS;
  *found = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation_handle,
                              const void* alpha, const void* a, cublasLtMatrixLayout_t a_layout,
                              const void* b, cublasLtMatrixLayout_t b_layout, const void* beta,
                              const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t* algorithm, void* workspace,
                              size_t workspace_bytes, cudaStream_t stream) {
  Get<int>(handle);
  const auto& operation = Get<Operation>(operation_handle);
  if (algorithm == nullptr) Fault("cublasLtMatmul without an algorithm is not modelled");
  const uint64_t index = algorithm->data[0] - 1;
  if (index >= choices.size() || alpha == nullptr || beta == nullptr) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  const Choice& choice = choices[index];
  if (choice.a != Get<Layout>(a_layout) || choice.b != Get<Layout>(b_layout) ||
      choice.c != Get<Layout>(c_layout) || choice.d != Get<Layout>(d_layout) ||
      choice.transpose_a != operation.a || choice.transpose_b != operation.b ||
      choice.scale != operation.scale || workspace_bytes < choice.workspace ||
      (c == d && choice.c != choice.d)) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  const void* const matrices[] = {a, b, c, d};
  for (int i = 0; i < 4; ++i) {
    if (reinterpret_cast<uint64_t>(matrices[i]) % choice.align[i] != 0) {
      Fault(std::string("cublasLtMatmul: matrix ") + "ABCD"[i] +
            " is not aligned as the preferences promised, or as integers must be");
    }
  }
  if (reinterpret_cast<uint64_t>(workspace) % kWorkspaceAlign != 0) {
    Fault("cublasLtMatmul: the workspace is not aligned to 256 bytes");
  }
  double factors[2];
  for (int i = 0; i < 2; ++i) {
    const void* const from = i == 0 ? alpha : beta;
    if (choice.scale == CUDA_R_32I) {
      const int32_t factor = *static_cast<const int32_t*>(from);
      if (factor != 0 && factor != 1) return CUBLAS_STATUS_NOT_SUPPORTED;
      factors[i] = factor;
    } else {
      factors[i] = double{*static_cast<const float*>(from)};
    }
  }
  if (ptxsim::Usable() != cudaSuccess) return CUBLAS_STATUS_EXECUTION_FAILED;
  const auto address = [](const void* p) { return reinterpret_cast<uint64_t>(p); };
  const Product product = {choice,     address(a),         address(b), address(c),
                           address(d), address(workspace), factors[0], factors[1]};
  ptxsim::Enqueue(stream, [product] { product.Run(); });
  ++products;
  return CUBLAS_STATUS_SUCCESS;
}

// tests/ptxsim/from_tests.h
size_t ptxsim_products() { return products; }

}  // extern "C"
