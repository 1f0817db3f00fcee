#include "loadtest/load_report.h"

#include <gtest/gtest.h>

namespace skim {
namespace {

StreamRecord Finished(std::vector<Micros> token_times) {
  StreamRecord record;
  record.planned = 1'000;
  record.started = 1'500;
  record.token_times = std::move(token_times);
  record.ended = record.token_times.back() + 1'000;
  record.final.emplace().mutable_usage()->set_prompt_tokens(7);
  return record;
}

TEST(LoadReport, CountsLatencyFromWhenTheRequestWasDue) {
  const LoadReport report = MakeReport({Finished({11'000, 13'000})});
  EXPECT_DOUBLE_EQ(report.ttft_ms.Median(), 10);
  EXPECT_DOUBLE_EQ(report.e2e_ms.Median(), 13);
  EXPECT_DOUBLE_EQ(report.late_ms.Median(), 0.5);
  EXPECT_DOUBLE_EQ(report.seconds, 0.0125);
}

TEST(LoadReport, SpreadsTheWaitOverTheTokensOfOneMessage) {
  // One token, then three in one message 6 ms later, then one 4 ms later.
  const LoadReport report = MakeReport({Finished({10'000, 16'000, 16'000, 16'000, 20'000})});
  ASSERT_EQ(report.inter_token_ms.count(), 4u);
  EXPECT_DOUBLE_EQ(report.inter_token_ms.Percentile(0.75), 2);
  EXPECT_DOUBLE_EQ(report.inter_token_ms.Percentile(1), 4);
  EXPECT_DOUBLE_EQ(report.inter_token_ms.Summarize().mean, 2.5);
}

TEST(LoadReport, LeavesSlowReadersOutOfTheLatencies) {
  StreamRecord slow = Finished({500'000});
  slow.behaviour = Behaviour::kSlowReader;
  const LoadReport report = MakeReport({Finished({11'000}), slow});
  EXPECT_EQ(report.ttft_ms.count(), 1u);
  EXPECT_EQ(report.generated_tokens, 2);
  EXPECT_EQ(report.finished, 2);
}

TEST(LoadReport, JsonSaysWhatTheTableSays) {
  StreamRecord broken = Finished({11'000});
  broken.faults.push_back({FaultKind::kMissingTokens, 3, "choice 0"});
  const LoadReport report = MakeReport({broken});
  const auto json = ToJson(report);
  EXPECT_EQ(json["faults"]["missing_tokens"], 3);
  EXPECT_EQ(json["failed"], 1);
  EXPECT_EQ(json["ttft_ms"]["count"], 1);
  EXPECT_NE(ToTable(report).find("FAULT missing_tokens: 3"), std::string::npos);
}

TEST(LoadReport, IsEmptyButWholeWithoutRequests) {
  const LoadReport report = MakeReport({});
  EXPECT_TRUE(report.Clean());
  EXPECT_EQ(ToJson(report)["generated_tokens_per_s"], 0.0);
}

}  // namespace
}  // namespace skim
