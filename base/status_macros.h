// Early return on error, for functions that return absl::Status or absl::StatusOr.
// Debian's Abseil (2022-06) has no such macros of its own.
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define SKIM_RETURN_IF_ERROR(expr)                    \
  do {                                                \
    absl::Status skim_status_ = (expr);               \
    if (!skim_status_.ok()) return skim_status_;      \
  } while (false)

#define SKIM_CONCAT_INNER_(a, b) a##b
#define SKIM_CONCAT_(a, b) SKIM_CONCAT_INNER_(a, b)

// SKIM_ASSIGN_OR_RETURN(auto x, MakeX());
#define SKIM_ASSIGN_OR_RETURN(lhs, expr) \
  SKIM_ASSIGN_OR_RETURN_IMPL_(SKIM_CONCAT_(skim_or_, __LINE__), lhs, expr)
#define SKIM_ASSIGN_OR_RETURN_IMPL_(tmp, lhs, expr) \
  auto tmp = (expr);                                \
  if (!tmp.ok()) return std::move(tmp).status();    \
  lhs = *std::move(tmp)
