// The shipped daemon with `--backend cuda`, over a real socket. The simulated device is preloaded
// under this program and so under the daemon it starts; without any device the streams are
// skipped.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>

#include "loadtest/metrics_scrape.h"
#include "tests/e2e/real_daemon.h"
#include "tests/engine/golden.h"

namespace skim {
namespace {

using testing::HasSubstr;

constexpr char kModel[] = "tiny-llama3";

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

struct Started {
  std::unique_ptr<DaemonProcess> daemon;  // null: it did not start
  std::string log;
};

Started Start(const std::string& backend, std::vector<std::string> arguments = {}) {
  DaemonOptions options;
  options.skimd = SkimdPath();
  options.model_dir = GoldenPath(kModel);
  options.arguments = {"--backend", backend, "--kv-cache", "4MiB", "--log-level", "warn"};
  options.arguments.insert(options.arguments.end(), arguments.begin(), arguments.end());
  options.log_path = ScratchDir() + "/" + backend + ".log";
  auto daemon = DaemonProcess::Start(options);
  if (daemon.ok()) return {*std::move(daemon), ""};
  return {nullptr, ReadFile(options.log_path)};
}

// The same prompt in full and pruned.
std::vector<Reply> Stream(const DaemonProcess& daemon) {
  const auto connection = Connect(daemon);
  // No fewer than 64 tokens are kept; here a token is a byte.
  v1::GenerateRequest request = Continue(std::string(120, 'a') + " stream of bytes", 6);
  std::vector<Reply> replies = {Generate(*connection, request)};
  v1::PrefillPolicy::Lazy* lazy = request.mutable_prefill()->mutable_lazy();
  lazy->add_keep_ratio(0.7);
  lazy->add_keep_ratio(0.5);
  replies.push_back(Generate(*connection, request));
  return replies;
}

TEST(CudaDaemon, StreamsTheCpusTokensOfExactAndOfPrunedPrompts) {
  const std::vector<std::string> prune = {"--lazy-boundaries", "1,2", "--lazy-min-tokens", "0"};
  const Started device = Start("cuda", prune);
  if (device.daemon == nullptr) {
    ASSERT_THAT(device.log, HasSubstr("no CUDA device")) << "the daemon did not start";
    GTEST_SKIP() << device.log;
  }
  const Started host = Start("cpu", prune);
  ASSERT_NE(host.daemon, nullptr) << host.log;
  const auto got = Stream(*device.daemon), want = Stream(*host.daemon);
  for (size_t i = 0; i < want.size(); ++i) {
    ASSERT_TRUE(got[i].status.ok()) << got[i].status.error_message();
    ASSERT_EQ(got[i].finals.size(), 1u);
    EXPECT_EQ(got[i].token_ids.size(), 6u);
    EXPECT_EQ(got[i].token_ids, want[i].token_ids);
    EXPECT_EQ(got[i].text, want[i].text);
  }
  EXPECT_EQ(got[1].finals[0].prefill().mode(), v1::PrefillOutcome::MODE_LAZY);
  EXPECT_LT(got[1].finals[0].prefill().kept_tokens(), 120u);
  // Leaks and unfinished work are faults of the simulated device, and end it otherwise.
  EXPECT_EQ(*device.daemon->Stop(kLong), 0);
  EXPECT_EQ(*host.daemon->Stop(kLong), 0);
}

TEST(CudaDaemon, LaunchesGraphsUnlessToldNotToAndStreamsTheSameTokens) {
  std::vector<std::vector<uint32_t>> tokens;
  for (const std::string graphs : {"on", "off"}) {
    const Started device = Start("cuda", {"--cuda-graphs", graphs});
    if (device.daemon == nullptr) {
      ASSERT_THAT(device.log, HasSubstr("no CUDA device")) << "the daemon did not start";
      GTEST_SKIP() << device.log;
    }
    const Reply reply = Generate(*Connect(*device.daemon), Continue("a stream of bytes", 8));
    ASSERT_TRUE(reply.status.ok()) << reply.status.error_message();
    tokens.push_back(reply.token_ids);
    const auto metrics = ScrapeMetrics(device.daemon->metrics_address());
    ASSERT_TRUE(metrics.ok()) << metrics.status();
    // Of 7 steps after the prompt's the first is new.
    EXPECT_EQ(metrics->at("skim_cuda_graph_launches_total"), graphs == "on" ? 6 : 0);
    EXPECT_EQ(*device.daemon->Stop(kLong), 0);
  }
  EXPECT_EQ(tokens[0], tokens[1]);
}

// A daemon that guesses by itself, and takes what it can from cuBLASLt.
TEST(CudaDaemon, StreamsTheCpusTokensWhateverTheyAreGuessedBy) {
  const std::vector<std::string> formats = {"--weights", "bf16,int8",         "--lazy-boundaries",
                                            "1,2",       "--lazy-min-tokens", "0"};
  std::vector<std::string> cublaslt = formats;
  cublaslt.insert(cublaslt.end(), {"--cuda-gemm", "cublaslt", "--device-memory", "50%"});
  const Started device = Start("cuda", cublaslt);
  if (device.daemon == nullptr) {
    ASSERT_THAT(device.log, HasSubstr("no CUDA device")) << "the daemon did not start";
    GTEST_SKIP() << device.log;
  }
  const Started host = Start("cpu", formats);
  ASSERT_NE(host.daemon, nullptr) << host.log;
  v1::GenerateRequest plain = Continue(std::string(70, 'a') + " bytes, bytes,", 6);
  plain.mutable_prefill()->mutable_lazy()->add_keep_ratio(0.9);
  plain.mutable_prefill()->mutable_lazy()->add_keep_ratio(0.8);
  plain.mutable_prefill()->mutable_lazy()->set_decode_mode(v1::PrefillPolicy::DECODE_MODE_STATIC);
  const Reply want = Generate(*Connect(*host.daemon), plain);
  ASSERT_TRUE(want.status.ok()) << want.status.error_message();
  std::vector<v1::Speculation> drafters(3);
  drafters[0].mutable_lookup();
  drafters[1].mutable_self()->set_exit_layer(1);
  drafters[2].mutable_self()->set_exit_layer(1);
  drafters[2].mutable_self()->set_weights(v1::WEIGHT_FORMAT_INT8);
  const auto connection = Connect(*device.daemon);
  for (const v1::Speculation& drafter : drafters) {
    v1::GenerateRequest request = plain;
    *request.mutable_speculation() = drafter;
    const Reply got = Generate(*connection, request);
    ASSERT_TRUE(got.status.ok()) << got.status.error_message();
    EXPECT_EQ(got.token_ids, want.token_ids) << drafter.ShortDebugString();
    EXPECT_EQ(got.text, want.text);
    ASSERT_EQ(got.finals.size(), 1u);
    EXPECT_EQ(got.finals[0].speculation().draft_rows() > 0, drafter.has_self());
  }
  EXPECT_EQ(*device.daemon->Stop(kLong), 0);
  EXPECT_EQ(*host.daemon->Stop(kLong), 0);
}

TEST(CudaDaemon, RefusesInOneSentenceToStartWhereTheDevicesMemoryIsTooSmall) {
  for (const char* size : {"64KiB", "4MiB"}) {
    const Started started = Start("cuda", {"--device-memory", size});
    if (started.log.find("no CUDA device") != std::string::npos) GTEST_SKIP() << started.log;
    EXPECT_EQ(started.daemon, nullptr) << size;
    EXPECT_THAT(started.log, testing::StartsWith("skimd: device_memory: ")) << size;
    EXPECT_EQ(std::count(started.log.begin(), started.log.end(), '\n'), 1) << started.log;
  }
}

TEST(CudaDaemon, WithoutCublasLtSaysSoInOneSentenceToWhoAsksForIt) {
  const char* set = std::getenv("LD_PRELOAD");
  if (set == nullptr) GTEST_SKIP() << "no simulated device";
  const std::string preloaded = set;
  setenv("LD_PRELOAD", preloaded.substr(0, preloaded.find(':')).c_str(), 1);  // the device alone
  const Started started = Start("cuda", {"--cuda-gemm", "cublaslt"});
  setenv("LD_PRELOAD", preloaded.c_str(), 1);
  if (started.daemon != nullptr) GTEST_SKIP() << "cuBLASLt is installed";
  EXPECT_THAT(started.log, testing::StartsWith("skimd: cuda_gemm: cublaslt needs libcublasLt.so."));
  EXPECT_EQ(std::count(started.log.begin(), started.log.end(), '\n'), 1) << started.log;
}

TEST(CudaDaemon, WithoutADeviceSaysSoInOneSentenceAndEnds) {
  setenv("PTXSIM_NO_DEVICE", "1", 1);
  setenv("CUDA_VISIBLE_DEVICES", "", 1);
  const Started started = Start("cuda");
  unsetenv("PTXSIM_NO_DEVICE");
  unsetenv("CUDA_VISIBLE_DEVICES");
  EXPECT_EQ(started.daemon, nullptr);
  EXPECT_THAT(started.log, testing::StartsWith("skimd: "));
  EXPECT_THAT(started.log, HasSubstr("backend: no CUDA device can be used here"));
  EXPECT_EQ(std::count(started.log.begin(), started.log.end(), '\n'), 1) << started.log;
}

}  // namespace
}  // namespace skim
