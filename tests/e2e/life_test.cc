// How skimd starts, says so, and ends.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <thread>

#include "grpc/health/v1/health.grpc.pb.h"
#include "tests/e2e/real_daemon.h"

namespace skim {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

TEST(DaemonLife, SaysReadyOnceOnFreePortsAndEndsCleanlyOnSigterm) {
  const auto daemon = StartDaemon();  // which checks the line
  ASSERT_NE(daemon, nullptr);
  EXPECT_NE(daemon->grpc_address(), daemon->metrics_address());
  EXPECT_THAT(daemon->grpc_address(), testing::Not(testing::EndsWith(":0")));

  const auto health = grpc::health::v1::Health::NewStub(
      grpc::CreateChannel(daemon->grpc_address(), grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  grpc::health::v1::HealthCheckResponse response;
  ASSERT_TRUE(health->Check(&context, {}, &response).ok());
  EXPECT_EQ(response.status(), grpc::health::v1::HealthCheckResponse::SERVING);

  EXPECT_EQ(*daemon->Stop(kLong), 0);
  EXPECT_EQ(*daemon->process().ReadAll(kLong), "");  // nothing but the ready line
}

TEST(DaemonLife, SigtermLetsStreamsFinishAndRefusesNewOnes) {
  const auto daemon = StartDaemon();
  ASSERT_NE(daemon, nullptr);
  const auto connection = Connect(*daemon);
  grpc::ClientContext context;
  const auto reader = connection->stub().Generate(&context, Continue("Once upon a time", 150));
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  daemon->process().Signal(SIGTERM);
  int tokens = response.delta().token_ids_size();
  bool refused = false;
  int finals = 0;
  while (reader->Read(&response)) {
    tokens += response.delta().token_ids_size();
    finals += response.has_final();
    if (!refused) {
      refused = Generate(*connection, Continue("New", 1)).status.error_code() ==
                grpc::StatusCode::UNAVAILABLE;
    }
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(tokens, 150);
  EXPECT_EQ(finals, 1);
  EXPECT_TRUE(refused);
  EXPECT_EQ(*daemon->process().Wait(kLong), 0);
}

TEST(DaemonLife, ASecondSigtermDoesNotWait) {
  const auto daemon = StartDaemon("256MiB", {"--drain-timeout", "60min"});
  ASSERT_NE(daemon, nullptr);
  const auto connection = Connect(*daemon);
  grpc::ClientContext context;
  const auto reader = connection->stub().Generate(&context, Continue("Once upon a time", 8000));
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  daemon->process().Signal(SIGTERM);
  // Draining: the stream goes on.
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(reader->Read(&response));
  daemon->process().Signal(SIGTERM);
  while (reader->Read(&response)) {
  }
  EXPECT_FALSE(reader->Finish().ok());
  EXPECT_TRUE(daemon->process().Wait(kLong).ok());
}

class BadStart : public testing::Test {
 protected:
  void SetUp() override {
    fs::remove_all(dir_);
    fs::create_directories(dir_);
    for (const auto& file : fs::directory_iterator(DefaultModelDir())) {
      if (file.is_regular_file()) fs::create_symlink(file.path(), dir_ / file.path().filename());
    }
  }
  void TearDown() override { fs::remove_all(dir_); }

  // Replaces a file of the model by one with other content.
  void Write(const std::string& name, const std::string& content) {
    fs::remove(dir_ / name);
    std::ofstream(dir_ / name, std::ios::binary) << content;
  }

  static std::string Read(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  }

  // Expects a failure told in one sentence on stderr, and nothing on stdout.
  std::string StartError(std::vector<std::string> arguments = {},
                         const std::string& listen = "127.0.0.1:0") {
    const std::string log = ScratchDir() + "/stderr";
    arguments.insert(arguments.begin(),
                     {SkimdPath(), "--model", dir_.string(), "--listen", listen, "--metrics",
                      "127.0.0.1:0", "--kv-cache", "64MiB", "--log-level", "error"});
    const auto child = *ChildProcess::Start(arguments, "", log);
    EXPECT_EQ(*child->ReadAll(kLong), "");
    const auto exit = child->Wait(kLong);
    EXPECT_TRUE(exit.ok()) << exit.status();
    // No signal, no sanitizer: an orderly exit.
    EXPECT_THAT(*exit, testing::AllOf(testing::Ge(1), testing::Lt(128)));
    std::string error = Read(log);
    EXPECT_THAT(error, testing::StartsWith("skimd: "));
    EXPECT_EQ(std::count(error.begin(), error.end(), '\n'), 1) << error;
    return error;
  }

  const fs::path dir_ = fs::path(ScratchDir()) / "model";
};

TEST_F(BadStart, NoModel) {
  fs::remove_all(dir_);
  EXPECT_THAT(StartError(), HasSubstr(dir_.string()));
}

TEST_F(BadStart, ConfigWithZeroHeads) {
  const std::string config = Read(dir_ / "config.json");
  const std::regex heads(R"x("num_attention_heads": \d+)x");
  ASSERT_TRUE(std::regex_search(config, heads));
  Write("config.json", std::regex_replace(config, heads, R"x("num_attention_heads": 0)x"));
  EXPECT_THAT(StartError(), HasSubstr("num_attention_heads"));
}

TEST_F(BadStart, ConfigThatIsNoJson) {
  Write("config.json", "{\"model_type\": ");
  EXPECT_THAT(StartError(), HasSubstr("config.json"));
}

TEST_F(BadStart, TruncatedWeights) {
  const fs::path weights = fs::path(DefaultModelDir()) / "model.safetensors";
  fs::remove(dir_ / "model.safetensors");
  fs::copy_file(weights, dir_ / "model.safetensors");
  fs::resize_file(dir_ / "model.safetensors", fs::file_size(weights) - 1000);
  EXPECT_THAT(StartError(), HasSubstr("model.safetensors"));
}

TEST_F(BadStart, EmptyWeights) {
  Write("model.safetensors", "");
  EXPECT_THAT(StartError(), HasSubstr("model.safetensors"));
}

TEST_F(BadStart, NoTokenizer) {
  fs::remove(dir_ / "tokenizer.json");
  EXPECT_THAT(StartError(), HasSubstr("tokenizer.json"));
}

TEST_F(BadStart, BrokenTokenizer) {
  Write("tokenizer.json", "{}");
  EXPECT_THAT(StartError(), HasSubstr("tokenizer.json"));
}

TEST_F(BadStart, AddressInUse) {
  const auto daemon = StartDaemon();
  ASSERT_NE(daemon, nullptr);
  EXPECT_THAT(StartError({}, daemon->grpc_address()), HasSubstr(daemon->grpc_address()));
}

TEST_F(BadStart, TokensThatCannotBeRead) {
  EXPECT_THAT(StartError({"--auth-token-file", "/no/such/file"}), HasSubstr("/no/such/file"));
}

}  // namespace
}  // namespace skim
