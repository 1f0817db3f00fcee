#include "kernels/backend.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kernels/cpu/isa.h"
#include "tests/kernels/random_matrix.h"

namespace skim {
namespace {

std::unique_ptr<Ops> Cpu(std::string isa = "auto", int threads = 2) {
  auto ops = MakeOps({.backend = "cpu", .isa = std::move(isa), .threads = threads});
  EXPECT_TRUE(ops.ok()) << ops.status();
  return *std::move(ops);
}

std::unique_ptr<Buffer> Device(Ops& ops, const void* host, size_t bytes) {
  auto buffer = ops.Allocate(bytes).value();
  ops.Upload(buffer->data(), host, bytes);
  return buffer;
}

TEST(Backend, CudaIsRefusedInOneSentence) {
  const absl::Status status = MakeOps({.backend = "cuda"}).status();
  if (status.ok()) GTEST_SKIP() << "this machine has a CUDA device";
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(status.message().find("CUDA"), std::string::npos);
}

TEST(Backend, UnknownNamesAndThreadCountsAreInvalidAndNameTheField) {
  const std::vector<std::pair<BackendOptions, std::string>> cases = {
      {{.backend = "tpu"}, "backend"},   {{.backend = ""}, "backend"},
      {{.isa = "sse9"}, "isa"},          {{.threads = -1}, "threads"},
      {{.threads = 1 << 30}, "threads"}, {{.cuda_gemm = "mkl"}, "cuda_gemm"}};
  for (const auto& [options, field] : cases) {
    const absl::Status status = MakeOps(options).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(status.message().substr(0, field.size()), field) << status;
  }
}

TEST(Backend, DescribesItsPathAndThreads) {
  for (Isa isa : SupportedIsas()) {
    const std::string name(IsaName(isa));
    EXPECT_EQ(Cpu(name, 1)->Description(), "cpu " + name + ", 1 thread");
    EXPECT_EQ(Cpu(name, 3)->Description(), "cpu " + name + ", 3 threads");
  }
}

TEST(Backend, ZeroThreadsMeansOnePerCore) {
  EXPECT_EQ(Cpu("plain", 0)->Description().substr(0, 11), "cpu plain, ");
}

TEST(Backend, BuffersAreZeroedAndAlignedAndCopyBothWays) {
  auto ops = Cpu();
  auto buffer = ops->Allocate(1000).value();
  EXPECT_EQ(buffer->size(), 1000u);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->data()) % 64, 0u);
  for (size_t i = 0; i < 1000; ++i) ASSERT_EQ(buffer->data()[i], std::byte{0});
  const std::string text = "there and back";
  ops->Upload(buffer->data() + 3, text.data(), text.size());
  std::string back(text.size(), '?');
  ops->Download(back.data(), buffer->data() + 3, back.size());
  EXPECT_EQ(back, text);
  ops->Upload(buffer->data(), nullptr, 0);
  EXPECT_TRUE(ops->Wait().ok());
  EXPECT_EQ(ops->Allocate(size_t{1} << 60).status().code(), absl::StatusCode::kResourceExhausted);
}

TEST(Backend, RefusesToPackAnEmptyWeight) {
  auto ops = Cpu();
  EXPECT_EQ(
      ops->PackWeight({nullptr, 0, 0, 0}, WeightFormat::kBf16, WeightShape::kPlain).status().code(),
      absl::StatusCode::kInvalidArgument);
}

// The composition: operands in device buffers, through the border, on every path.
TEST(Backend, LinearAndSwiGluAgreeAcrossPaths) {
  const int64_t m = 5, n = 48, k = 96;
  const auto x = RandomBf16(1, m, k);
  const auto w = RandomBf16(2, n, k, 0.1f);
  std::vector<float> linear_plain, swiglu_plain;
  for (Isa isa : SupportedIsas()) {
    auto ops = Cpu(std::string(IsaName(isa)));
    const auto plain = ops->PackWeight(w.view(), WeightFormat::kBf16, WeightShape::kPlain).value();
    const auto gate_up =
        ops->PackWeight(w.view(), WeightFormat::kBf16, WeightShape::kGateUp).value();
    EXPECT_EQ(plain->out_features(), n);
    EXPECT_EQ(plain->in_features(), k);
    EXPECT_EQ(plain->bytes(), static_cast<size_t>(n * k * 2));
    const auto device_x = Device(*ops, &x.at(0, 0), m * k * sizeof(Bf16));
    const Matrix<const Bf16> in{device_x->As<Bf16>(), m, k, k};
    const auto y = ops->Allocate(m * n * sizeof(float)).value();
    const auto z = ops->Allocate(m * n / 2 * sizeof(Bf16)).value();
    ops->Linear(in, *plain, nullptr, false, {y->As<float>(), m, n, n});
    ops->LinearSwiGlu(in, *gate_up, nullptr, {z->As<Bf16>(), m, n / 2, n / 2});
    ASSERT_TRUE(ops->Wait().ok());
    std::vector<float> linear(m * n), swiglu;
    ops->Download(linear.data(), y->data(), y->size());
    for (int64_t i = 0; i < m * n / 2; ++i) swiglu.push_back(ToFloat(z->As<Bf16>()[i]));
    if (isa == Isa::kPlain) {
      linear_plain = linear;
      swiglu_plain = swiglu;
    }
    for (int64_t i = 0; i < m * n; ++i) ASSERT_NEAR(linear[i], linear_plain[i], 1e-5);
    for (int64_t i = 0; i < m * n / 2; ++i) {
      ASSERT_NEAR(swiglu[i], swiglu_plain[i], 0x1p-7 * std::abs(swiglu_plain[i]) + 1e-5);
    }
  }
}

TEST(Backend, PacksEveryFormatFromFloatsAndTheReadyMadeOnes) {
  auto ops = Cpu();
  const auto w = RandomBf16(3, 48, 96);
  for (int f = 0; f < kWeightFormats; ++f) {
    const auto format = static_cast<WeightFormat>(f);
    EXPECT_EQ(ops->PackWeight(w.view(), format, WeightShape::kPlain).value()->format(), format);
    const std::vector<uint8_t> codes(48 * 96, 1);
    const std::vector<float> scales(48, 1.0f);
    const auto ready =
        ops->PackQuantized({format, codes.data(), scales.data(), 48, 96}, WeightShape::kPlain);
    const bool comes = format == WeightFormat::kFp8 || format == WeightFormat::kInt8;
    EXPECT_EQ(ready.status().code(),
              comes ? absl::StatusCode::kOk : absl::StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace skim
