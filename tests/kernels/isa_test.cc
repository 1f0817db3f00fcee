#include "kernels/cpu/isa.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

namespace skim {
namespace {

TEST(Isa, PlainIsAlwaysSupportedAndTheListAscends) {
  const std::vector<Isa> isas = SupportedIsas();
  ASSERT_FALSE(isas.empty());
  EXPECT_EQ(isas.front(), Isa::kPlain);
  EXPECT_TRUE(std::is_sorted(isas.begin(), isas.end()));
  EXPECT_EQ(std::adjacent_find(isas.begin(), isas.end()), isas.end());
}

TEST(Isa, AutoIsTheBestSupported) { EXPECT_EQ(ChooseIsa("auto").value(), SupportedIsas().back()); }

TEST(Isa, EverySupportedOneCanBeForced) {
  for (Isa isa : SupportedIsas()) EXPECT_EQ(ChooseIsa(IsaName(isa)).value(), isa);
}

TEST(Isa, OneTheMachineLacksIsAFailedPrecondition) {
  const std::vector<Isa> has = SupportedIsas();
  for (Isa isa : {Isa::kAvx2, Isa::kAvx512, Isa::kAmx}) {
    if (std::find(has.begin(), has.end(), isa) != has.end()) continue;
    const absl::Status status = ChooseIsa(IsaName(isa)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_NE(std::string(status.message()).find(IsaName(isa)), std::string::npos);
  }
}

TEST(Isa, AnUnknownNameIsInvalid) {
  for (const char* name : {"", "AVX2", "sse", "avx512 "}) {
    EXPECT_EQ(ChooseIsa(name).status().code(), absl::StatusCode::kInvalidArgument) << name;
  }
}

}  // namespace
}  // namespace skim
