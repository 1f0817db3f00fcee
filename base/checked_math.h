// Arithmetic for sizes that come from outside (files, flags, requests): overflow is
// an answer, not undefined behaviour.
#pragma once

#include <concepts>
#include <optional>

namespace skim {

template <std::integral T>
[[nodiscard]] std::optional<T> CheckedAdd(T a, T b) {
  T out;
  if (__builtin_add_overflow(a, b, &out)) return std::nullopt;
  return out;
}

template <std::integral T>
[[nodiscard]] std::optional<T> CheckedMul(T a, T b) {
  T out;
  if (__builtin_mul_overflow(a, b, &out)) return std::nullopt;
  return out;
}

}  // namespace skim
