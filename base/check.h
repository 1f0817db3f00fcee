// SKIM_CHECK: ends the process on a broken invariant of our own. Never use it on
// anything a request, a file or a flag can influence: those return absl::Status.
#pragma once

#include <cstdio>
#include <cstdlib>

#define SKIM_CHECK(condition)                                                       \
  do {                                                                              \
    if (!(condition)) [[unlikely]] {                                                \
      std::fprintf(stderr, "%s:%d: broken invariant: %s\n", __FILE__, __LINE__,     \
                   #condition);                                                     \
      std::abort();                                                                 \
    }                                                                               \
  } while (false)
