#include "tests/scheduler/trace.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

namespace skim {
namespace {

std::vector<std::string> TraceNames() {
  std::vector<std::string> names;
  for (const auto& file :
       std::filesystem::directory_iterator(SKIM_SOURCE_DIR "/tests/scheduler/traces")) {
    names.push_back(file.path().stem().string());
  }
  std::ranges::sort(names);
  return names;
}

class SchedulerTrace : public ::testing::TestWithParam<std::string> {};

TEST_P(SchedulerTrace, GoesAsWritten) {
  std::ifstream file(SKIM_SOURCE_DIR "/tests/scheduler/traces/" + GetParam() + ".txt");
  std::stringstream text;
  text << file.rdbuf();
  ASSERT_FALSE(text.str().empty());
  EXPECT_EQ(RunTrace(text.str()), text.str());
}

INSTANTIATE_TEST_SUITE_P(All, SchedulerTrace, ::testing::ValuesIn(TraceNames()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace skim
