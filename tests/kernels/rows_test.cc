#include "kernels/cpu/rows.h"

#include <algorithm>
#include <numeric>

#include "gtest/gtest.h"
#include "random_matrix.h"

namespace skim {
namespace {

constexpr int64_t kRows = 50, kCols = 301;

std::vector<int32_t> ShuffledIndex() {
  std::vector<int32_t> index(kRows);
  std::iota(index.begin(), index.end(), 0);
  std::shuffle(index.begin(), index.end(), std::mt19937(1));
  return index;
}

TEST(Embed, CopiesTheRowOfEachToken) {
  const TestMatrix<Bf16> table = RandomBf16(1, kRows, kCols, 1, 4);
  const std::vector<TokenId> tokens = {0, 49, 7, 7, 31};
  for (int threads : {1, 3}) {
    ThreadPool pool(threads, false);
    TestMatrix<float> y(5, kCols, 2);
    const auto packed =
        CpuPackedWeight::Pack(pool, table.view(), WeightFormat::kBf16, WeightShape::kPlain);
    ASSERT_TRUE(packed.ok()) << packed.status();
    CpuEmbed(pool, **packed, tokens.data(), nullptr, y.view());
    for (int64_t r = 0; r < 5; ++r) {
      for (int64_t c = 0; c < kCols; ++c) {
        ASSERT_EQ(y.at(r, c), ToFloat(table.at(tokens[r], c)));
      }
    }
  }
}

TEST(LinearAt, IsTheSameForAnyNumberOfThreads) {
  constexpr int64_t kPicked = 40;
  const TestMatrix<Bf16> table = RandomBf16(5, kRows, kCols), x = RandomBf16(6, 3, kCols);
  std::vector<int32_t> index;
  for (int32_t i = 0; i < 3 * kPicked; ++i) index.push_back(i % kPicked < 30 ? i * 7 % kRows : -1);
  std::vector<TestMatrix<float>> results;
  for (int threads : {1, 2, 3}) {
    ThreadPool pool(threads, false);
    const auto packed =
        *CpuPackedWeight::Pack(pool, table.view(), WeightFormat::kBf16, WeightShape::kPlain);
    TestMatrix<float>& y = results.emplace_back(3, kPicked, 0);
    CpuLinearAt(pool, x.view(), *packed, index.data(), 0.25f, y.view());
    for (int64_t r = 0; r < 3; ++r) {
      for (int64_t c = 0; c < kPicked; ++c) ASSERT_EQ(y.at(r, c), results[0].at(r, c));
    }
  }
}

TEST(GatherRows, TakesRowsByIndexAndLeavesTheGapsAlone) {
  const std::vector<float> x = RandomFloats(2, kRows * kCols);
  const std::vector<int32_t> index = ShuffledIndex();
  for (int64_t count : {int64_t{0}, int64_t{1}, kRows}) {
    ThreadPool pool(2, false);
    TestMatrix<float> y(count, kCols, 3, -7.0f);
    CpuGatherRows(pool, {x.data(), kRows, kCols, kCols}, index.data(), y.view());
    for (int64_t r = 0; r < count; ++r) {
      for (int64_t c = 0; c < kCols; ++c) ASSERT_EQ(y.at(r, c), x[index[r] * kCols + c]);
      for (int64_t c = kCols; c < kCols + 3; ++c) ASSERT_EQ(y.at(r, c), -7.0f);
    }
  }
}

TEST(ScatterRows, UndoesAGather) {
  const std::vector<float> x = RandomFloats(3, kRows * kCols);
  const std::vector<int32_t> index = ShuffledIndex();
  ThreadPool pool(3, false);
  TestMatrix<float> gathered(kRows, kCols, 1), back(kRows, kCols, 2);
  CpuGatherRows(pool, {x.data(), kRows, kCols, kCols}, index.data(), gathered.view());
  CpuScatterRows(pool, gathered.view(), index.data(), back.view());
  for (int64_t r = 0; r < kRows; ++r) {
    for (int64_t c = 0; c < kCols; ++c) ASSERT_EQ(back.at(r, c), x[r * kCols + c]);
  }
}

TEST(ScatterRows, TouchesNamedRowsOnly) {
  const std::vector<float> x = RandomFloats(4, 2 * kCols);
  const std::vector<int32_t> index = {4, 1};
  ThreadPool pool(1, false);
  TestMatrix<float> y(6, kCols, 0, -1.0f);
  CpuScatterRows(pool, {x.data(), 2, kCols, kCols}, index.data(), y.view());
  for (int64_t c = 0; c < kCols; ++c) {
    ASSERT_EQ(y.at(4, c), x[c]);
    ASSERT_EQ(y.at(1, c), x[kCols + c]);
    for (int64_t r : {0, 2, 3, 5}) ASSERT_EQ(y.at(r, c), -1.0f);
  }
}

}  // namespace
}  // namespace skim
