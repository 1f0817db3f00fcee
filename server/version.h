#pragma once

namespace skim {

inline constexpr char kVersion[] = SKIM_VERSION;  // of the project, from CMake

}  // namespace skim
