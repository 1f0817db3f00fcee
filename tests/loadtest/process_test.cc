#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include "loadtest/child_process.h"
#include "loadtest/daemon_process.h"
#include "loadtest/metrics_scrape.h"

namespace skim {
namespace {

constexpr Micros kLong = 30'000'000;

std::unique_ptr<ChildProcess> Shell(const std::string& script) {
  return *ChildProcess::Start({"/bin/sh", "-c", script}, "", "");
}

TEST(ChildProcess, GivesLinesThenTheRestThenTheExitStatus) {
  const auto child = Shell("echo one; echo two; printf three; exit 7");
  EXPECT_EQ(*child->ReadLine(kLong), "one");
  EXPECT_EQ(*child->ReadAll(kLong), "two\nthree");
  EXPECT_TRUE(absl::IsOutOfRange(child->ReadLine(kLong).status()));
  EXPECT_EQ(*child->Wait(kLong), 7);
  EXPECT_EQ(*child->Wait(kLong), 7);
}

TEST(ChildProcess, ReportsTheSignalThatEndedIt) {
  const auto child = Shell("echo up; exec sleep 1000");
  EXPECT_EQ(*child->ReadLine(kLong), "up");
  EXPECT_TRUE(absl::IsDeadlineExceeded(child->ReadLine(10'000).status()));
  EXPECT_TRUE(absl::IsDeadlineExceeded(child->Wait(10'000).status()));
  child->Signal(SIGTERM);
  EXPECT_EQ(*child->Wait(kLong), 128 + SIGTERM);
}

TEST(ChildProcess, DoesNotOutliveItsObject) {
  pid_t pid = 0;
  {
    const auto child = Shell("echo up; exec sleep 1000");
    EXPECT_EQ(*child->ReadLine(kLong), "up");
    pid = child->pid();
  }
  EXPECT_EQ(kill(pid, 0), -1);
}

TEST(ChildProcess, NamesTheProgramThatIsNotThere) {
  const auto child = ChildProcess::Start({"/no/such/program"}, "", "");
  EXPECT_THAT(std::string(child.status().message()), testing::HasSubstr("/no/such/program"));
}

TEST(ReadyLine, IsReadExactly) {
  const auto line = ParseReadyLine("ready grpc=127.0.0.1:5 metrics=[::1]:65535");
  ASSERT_TRUE(line.ok()) << line.status();
  EXPECT_EQ(line->grpc_address, "127.0.0.1:5");
  EXPECT_EQ(line->metrics_address, "[::1]:65535");
  EXPECT_TRUE(line->worker_addresses.empty());
  const auto with_workers =
      ParseReadyLine("ready grpc=a:5 metrics=b:6 worker=c:7 worker=d:8/fast+int8");
  ASSERT_TRUE(with_workers.ok()) << with_workers.status();
  EXPECT_THAT(with_workers->worker_addresses, testing::ElementsAre("c:7", "d:8"));
  for (const char* bad : {"", "ready", "ready grpc=a:1", "ready grpc=a:1 metrics=b",
                          " ready grpc=a:1 metrics=b:2", "ready grpc=a:1 metrics=b:2 ",
                          "ready grpc=a:1 metrics=b:2 more", "ready grpc=a:1 metrics=b:2 worker=c",
                          "ready grpc=:1 metrics=b:2",
                          "ready grpc=a:0 metrics=b:2", "ready grpc=a:70000 metrics=b:2"}) {
    EXPECT_FALSE(ParseReadyLine(bad).ok()) << bad;
  }
}

TEST(ParseMetrics, KeepsLabelsWithTheName) {
  const auto values = ParseMetrics(
      "# HELP a text\n# TYPE a gauge\na{state=\"x y\"} 3\nb 1e-3\nb_bucket{le=\"+Inf\"} 7\n\n");
  ASSERT_TRUE(values.ok()) << values.status();
  EXPECT_EQ(values->size(), 3u);
  EXPECT_EQ(values->at("a{state=\"x y\"}"), 3);
  EXPECT_EQ(values->at("b"), 0.001);
  EXPECT_FALSE(ParseMetrics("<html>no metrics here</html>\n").ok());
}

TEST(ScrapeMetrics, SaysWhoDoesNotAnswer) {
  const auto values = ScrapeMetrics("127.0.0.1:1");
  EXPECT_THAT(std::string(values.status().message()), testing::HasSubstr("127.0.0.1:1"));
}

}  // namespace
}  // namespace skim
