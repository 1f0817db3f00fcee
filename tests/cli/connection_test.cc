#include "cli/connection.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <thread>

#include "tests/loadtest/fake_inference.h"

namespace skim {
namespace {

using testing::HasSubstr;

std::string TokenFile(const std::string& content) {
  const std::string path = testing::TempDir() + "/token";
  std::ofstream(path) << content;
  return path;
}

grpc::Status Call(const Connection& connection) {
  grpc::ClientContext context;
  connection.Prepare(&context);
  const auto reader = connection.stub().Generate(&context, {});
  v1::GenerateResponse response;
  while (reader->Read(&response)) {
  }
  return reader->Finish();
}

std::string OpenError(const ConnectionOptions& options) {
  return std::string(Connection::Open(options).status().message());
}

TEST(Connection, SendsTheFirstLineOfTheTokenFile) {
  std::string seen;
  const FakeInference fake([&](auto& request, auto* context, auto* writer) {
    const auto header = context->client_metadata().find("authorization");
    if (header != context->client_metadata().end()) {
      seen.assign(header->second.data(), header->second.size());
    }
    return FakeInference::Honest(request, context, writer);
  });
  ConnectionOptions options;
  options.server = fake.address();
  options.token_file = TokenFile("secret-1\nsecond line\n");
  const auto connection = Connection::Open(options);
  ASSERT_TRUE(connection.ok()) << connection.status();
  EXPECT_TRUE(Call(**connection).ok());
  EXPECT_EQ(seen, "Bearer secret-1");
}

TEST(Connection, RefusesTokensThatCannotBeAHeader) {
  ConnectionOptions options;
  for (const char* token : {"\nlater", "two words", "tab\there", "\x01"}) {
    options.token_file = TokenFile(token);
    EXPECT_THAT(OpenError(options), HasSubstr("--token-file")) << token;
  }
  options.token_file = "/no/such/file";
  EXPECT_THAT(OpenError(options), HasSubstr("/no/such/file"));
}

TEST(Connection, NamesTheTlsFlagThatIsWrong) {
  ConnectionOptions options;
  options.tls_cert = "/no/cert";
  EXPECT_THAT(OpenError(options), HasSubstr("go together"));
  options.tls_key = "/no/key";
  EXPECT_THAT(OpenError(options), HasSubstr("--tls-cert"));
  options.tls_ca = "/no/ca";
  EXPECT_THAT(OpenError(options), HasSubstr("--tls-ca"));
}

TEST(Connection, EndsACallAfterItsTimeout) {
  const FakeInference fake([](auto&, auto* context, auto*) {
    while (!context->IsCancelled()) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    return grpc::Status::CANCELLED;
  });
  ConnectionOptions options;
  options.server = fake.address();
  options.timeout_s = 0.05;
  EXPECT_EQ(Call(**Connection::Open(options)).error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
}

}  // namespace
}  // namespace skim
