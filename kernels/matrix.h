// A borrowed row-major matrix. The memory belongs to the backend that runs the op.
#pragma once

#include <cstdint>
#include <type_traits>

#include "base/bf16.h"

namespace skim {

template <typename T>
struct Matrix {
  T* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;  // elements from one row to the next, >= cols

  T* Row(int64_t r) const { return data + r * stride; }
  Matrix Rows(int64_t begin, int64_t count) const { return {Row(begin), count, cols, stride}; }

  operator Matrix<const T>() const  // NOLINT: a view of const is always fine
    requires(!std::is_const_v<T>)
  {
    return {data, rows, cols, stride};
  }
};

}  // namespace skim
