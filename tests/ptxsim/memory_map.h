// Where the address spaces lie. Shared and local addresses are small numbers in their own
// spaces and windows of the generic one; neither starts at 0, so that a null pointer faults.
#pragma once

#include <cstdint>

namespace ptxsim {

inline constexpr uint64_t kSharedBegin = 1024;
inline constexpr uint64_t kLocalBegin = 1024;
inline constexpr uint64_t kSharedWindow = uint64_t{1} << 56;
inline constexpr uint64_t kLocalWindow = uint64_t{1} << 57;

}  // namespace ptxsim
