// Operands on a backend, for the op suite: what a test has on the host goes up, and comes back.
#pragma once

#include <memory>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/ops.h"
#include "tests/kernels/random_matrix.h"

namespace skim {

class OpScene {
 public:
  explicit OpScene(Ops* ops) : ops_(*ops) {}

  Ops& ops() { return ops_; }

  // Device copies that live as long as the scene.
  template <typename T>
  T* Up(const std::vector<T>& host) {
    T* device = Room<T>(host.size());
    ops_.Upload(device, host.data(), host.size() * sizeof(T));
    EXPECT_TRUE(ops_.Wait().ok());
    return device;
  }
  template <typename T>
  Matrix<T> Up(const TestMatrix<T>& host) {
    std::vector<T> cells(&host.at(0, 0), &host.at(0, 0) + host.rows() * host.stride());
    return {Up(cells), host.rows(), host.cols(), host.stride()};
  }
  template <typename T>
  T* Room(size_t count) {
    buffers_.push_back(ops_.Allocate(count * sizeof(T)).value());
    return buffers_.back()->template As<T>();
  }

  // Waits, so everything before is done.
  template <typename T>
  std::vector<T> Down(const T* device, size_t count) {
    std::vector<T> host(count);
    ops_.Download(host.data(), device, count * sizeof(T));
    const absl::Status status = ops_.Wait();
    EXPECT_TRUE(status.ok()) << status;
    return host;
  }
  // Fills `host` with what the device has, the room between rows included.
  template <typename T>
  void Down(Matrix<T> device, TestMatrix<T>* host) {
    const auto cells = Down(device.data, host->rows() * host->stride());
    std::copy(cells.begin(), cells.end(), &host->at(0, 0));
  }

  std::unique_ptr<PackedWeight> Pack(const TestMatrix<Bf16>& w, WeightShape shape,
                                     WeightFormat format = WeightFormat::kBf16) {
    auto packed = ops_.PackWeight(w.view(), format, shape);
    EXPECT_TRUE(packed.ok()) << packed.status();
    return *std::move(packed);
  }

 private:
  Ops& ops_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
};

}  // namespace skim
