#include "server/trace_context.h"

#include <gtest/gtest.h>

namespace skim {
namespace {

TEST(TraceContext, IsReadAsW3CSaysAndIgnoredWhereItIsNot) {
  const std::string trace = "0af7651916cd43dd8448eb211c80319c";
  const std::string rest = "-b7ad6b7169203331-01";
  EXPECT_EQ(TraceIdOf("00-" + trace + rest), trace);
  EXPECT_EQ(TraceIdOf("cc-" + trace + rest + "-more"), trace);  // of a later version
  for (const std::string& bad :
       {std::string(), trace, "00-" + trace + rest + "-more", "cc-" + trace + rest + ".more",
        "ff-" + trace + rest, "00-" + std::string(32, '0') + rest,
        "00-" + trace + "-0000000000000000-01", "00-" + trace + "-b7ad6b7169203331-0",
        "00_" + trace + rest, "00-" + trace + "-B7AD6B7169203331-01",
        "00-0AF7651916CD43DD8448EB211C80319C" + rest, "0g-" + trace + rest,
        "00-" + trace.substr(1) + "\n" + rest}) {
    EXPECT_EQ(TraceIdOf(bad), "") << bad;
  }
}

}  // namespace
}  // namespace skim
