#include "kernels/cuda/cublas_lt.h"

#include <cublasLt.h>
#include <dlfcn.h>

#include <compare>
#include <map>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace skim::cuda {
namespace {

// What NVIDIA recommends for sm_90 and later.
constexpr size_t kWorkspaceBytes = size_t{32} << 20;
// A step's products have a few shapes, but any number of rows: forgotten together when there are
// more.
constexpr size_t kMostPlans = 4096;

}  // namespace

// The entry points that are used.
struct CublasLt::Library {
  decltype(&cublasLtCreate) create = nullptr;
  decltype(&cublasLtDestroy) destroy = nullptr;
  decltype(&cublasLtGetStatusName) status_name = nullptr;
  decltype(&cublasLtMatmulDescCreate) new_operation = nullptr;
  decltype(&cublasLtMatmulDescDestroy) delete_operation = nullptr;
  decltype(&cublasLtMatmulDescSetAttribute) set_operation = nullptr;
  decltype(&cublasLtMatrixLayoutCreate) new_layout = nullptr;
  decltype(&cublasLtMatrixLayoutDestroy) delete_layout = nullptr;
  decltype(&cublasLtMatmulPreferenceCreate) new_preference = nullptr;
  decltype(&cublasLtMatmulPreferenceDestroy) delete_preference = nullptr;
  decltype(&cublasLtMatmulPreferenceSetAttribute) set_preference = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) choose = nullptr;
  decltype(&cublasLtMatmul) multiply = nullptr;

  static absl::StatusOr<Library> Load();
};

absl::StatusOr<CublasLt::Library> CublasLt::Library::Load() {
  const std::string name = absl::StrCat("libcublasLt.so.", CUBLAS_VER_MAJOR);
  void* const handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);  // until the process ends
  if (handle == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("cuda_gemm: cublaslt needs ", name, ": ", dlerror()));
  }
  Library library;
  std::string missing;
  const auto find = [&](auto* function, const char* symbol) {
    *function = reinterpret_cast<std::remove_pointer_t<decltype(function)>>(dlsym(handle, symbol));
    if (*function == nullptr) missing = symbol;
  };
  find(&library.create, "cublasLtCreate");
  find(&library.destroy, "cublasLtDestroy");
  find(&library.status_name, "cublasLtGetStatusName");
  find(&library.new_operation, "cublasLtMatmulDescCreate");
  find(&library.delete_operation, "cublasLtMatmulDescDestroy");
  find(&library.set_operation, "cublasLtMatmulDescSetAttribute");
  find(&library.new_layout, "cublasLtMatrixLayoutCreate");
  find(&library.delete_layout, "cublasLtMatrixLayoutDestroy");
  find(&library.new_preference, "cublasLtMatmulPreferenceCreate");
  find(&library.delete_preference, "cublasLtMatmulPreferenceDestroy");
  find(&library.set_preference, "cublasLtMatmulPreferenceSetAttribute");
  find(&library.choose, "cublasLtMatmulAlgoGetHeuristic");
  find(&library.multiply, "cublasLtMatmul");
  if (!missing.empty()) {
    return absl::FailedPreconditionError(absl::StrCat("cuda_gemm: ", name, " lacks ", missing));
  }
  return library;
}

// What is multiplied, and what it is added up in: the type of alpha and beta, too.
struct CublasLt::Numbers {
  cudaDataType_t in, out;
  cublasComputeType_t compute;
  auto operator<=>(const Numbers&) const = default;
};

struct CublasLt::Shape {
  Numbers numbers;
  int64_t rows, features, inputs, x_stride, y_stride;
  auto operator<=>(const Shape&) const = default;
};

// A product of one shape, and how it is computed. cuBLASLt counts columns first: a matrix whose
// rows lie one after the other is to it the transposed one, so what it is asked for is
// y^T = W x^T with W as transposed.
struct CublasLt::Plan {
  explicit Plan(const Library& l) : library(l) {}
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  ~Plan() {
    if (operation != nullptr) library.delete_operation(operation);
    for (cublasLtMatrixLayout_t layout : {w, x, y}) {
      if (layout != nullptr) library.delete_layout(layout);
    }
  }

  const Library& library;
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t w = nullptr, x = nullptr, y = nullptr;
  cublasLtMatmulHeuristicResult_t chosen = {};
};

struct CublasLt::State {
  State(Runtime* r, const Library& l) : runtime(*r), library(l) {}
  ~State() {
    plans.clear();
    if (preference != nullptr) library.delete_preference(preference);
    if (handle != nullptr) library.destroy(handle);
    runtime.Free(workspace);
  }
  // True if fine; else the runtime fails.
  bool Check(cublasStatus_t status, const char* what) {
    if (status == CUBLAS_STATUS_SUCCESS) return true;
    const std::string text =
        absl::StrCat("cublaslt: ", what, " failed, ", library.status_name(status));
    runtime.Fail(absl::InternalError(text));
    return false;
  }
  bool Prefer(cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    return Check(library.set_preference(preference, attribute, &value, sizeof(value)),
                 "a preference");
  }

  Runtime& runtime;
  const Library library;
  cublasLtHandle_t handle = nullptr;
  cublasLtMatmulPreference_t preference = nullptr;
  void* workspace = nullptr;
  std::map<Shape, std::unique_ptr<Plan>> plans;
};

CublasLt::CublasLt(std::unique_ptr<State> state) : state_(std::move(state)) {}
CublasLt::~CublasLt() = default;

absl::StatusOr<std::unique_ptr<CublasLt>> CublasLt::Load(Runtime* runtime) {
  SKIM_ASSIGN_OR_RETURN(const Library library, Library::Load());
  auto state = std::make_unique<State>(runtime, library);
  SKIM_ASSIGN_OR_RETURN(state->workspace, runtime->Allocate(kWorkspaceBytes));
  const bool made =
      state->Check(library.create(&state->handle), "cublasLtCreate") &&
      state->Check(library.new_preference(&state->preference), "preferences") &&
      state->Prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{kWorkspaceBytes}) &&
      state->Prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, uint32_t{kAlign}) &&
      state->Prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, uint32_t{kAlign}) &&
      state->Prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, uint32_t{kAlign}) &&
      state->Prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, uint32_t{kAlign});
  if (!made) return runtime->Wait();
  return std::unique_ptr<CublasLt>(new CublasLt(std::move(state)));
}

const CublasLt::Plan* CublasLt::PlanFor(const Shape& shape) {
  State& s = *state_;
  if (const auto known = s.plans.find(shape); known != s.plans.end()) return known->second.get();
  if (s.plans.size() >= kMostPlans) s.plans.clear();
  auto plan = std::make_unique<Plan>(s.library);
  const auto [in, out, compute] = shape.numbers;
  const auto rows = static_cast<uint64_t>(shape.rows), inputs = static_cast<uint64_t>(shape.inputs),
             features = static_cast<uint64_t>(shape.features);
  const cublasOperation_t transposed = CUBLAS_OP_T;
  int found = 0;
  const bool made =
      s.Check(s.library.new_operation(&plan->operation, compute, out), "an operation") &&
      s.Check(s.library.set_operation(plan->operation, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                      sizeof(transposed)),
              "a transposition") &&
      s.Check(s.library.new_layout(&plan->w, in, inputs, features, shape.inputs), "a layout") &&
      s.Check(s.library.new_layout(&plan->x, in, inputs, rows, shape.x_stride), "a layout") &&
      s.Check(s.library.new_layout(&plan->y, out, features, rows, shape.y_stride), "a layout") &&
      s.Check(s.library.choose(s.handle, plan->operation, plan->w, plan->x, plan->y, plan->y,
                               s.preference, 1, &plan->chosen, &found),
              "the choice of an algorithm") &&
      s.Check(found > 0 ? plan->chosen.state : CUBLAS_STATUS_NOT_SUPPORTED, "the algorithm");
  if (!made) return nullptr;
  return (s.plans[shape] = std::move(plan)).get();
}

template <typename In, typename Out>
void CublasLt::Multiply(Matrix<const In> x, const In* weight, const Numbers& numbers,
                        bool accumulate, Matrix<Out> y) {
  State& s = *state_;
  const Plan* plan = PlanFor({numbers, x.rows, y.cols, x.cols, x.stride, y.stride});
  if (plan == nullptr || !s.runtime.ok()) return;
  const Out alpha = 1, beta = accumulate ? 1 : 0;
  s.Check(s.library.multiply(s.handle, plan->operation, &alpha, weight, plan->w, x.data, plan->x,
                             &beta, y.data, plan->y, y.data, plan->y, &plan->chosen.algo,
                             s.workspace, kWorkspaceBytes, s.runtime.stream()),
          "a product");
}

void CublasLt::Multiply(Matrix<const Bf16> x, const Bf16* weight, bool accumulate,
                        Matrix<float> y) {
  Multiply(x, weight, {CUDA_R_16BF, CUDA_R_32F, CUBLAS_COMPUTE_32F}, accumulate, y);
}

void CublasLt::Multiply(Matrix<const int8_t> x, const int8_t* weight, Matrix<int32_t> y) {
  Multiply(x, weight, {CUDA_R_8I, CUDA_R_32I, CUBLAS_COMPUTE_32I}, false, y);
}

}  // namespace skim::cuda
