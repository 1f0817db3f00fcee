// Many clients of all kinds at once: every call has exactly one outcome, nobody's text is
// touched by another, and afterwards every page is back.
#include <gtest/gtest.h>

#include <chrono>
#include <random>
#include <thread>

#include "tests/server/test_server.h"

namespace skim {
namespace {

constexpr int kStreams = 64;
constexpr int kRounds = 3;

enum class Kind { kPlain, kCancelled, kSlow, kMalformed };

struct Client {
  Kind kind = Kind::kPlain;
  v1::GenerateRequest request;
  int cancel_after = 0;  // messages
  Outcome outcome;
};

Client MakeClient(std::mt19937* random) {
  Client client;
  const unsigned dice = (*random)() % 10;
  client.kind = dice < 3   ? Kind::kCancelled
                : dice < 4 ? Kind::kSlow
                : dice < 5 ? Kind::kMalformed
                           : Kind::kPlain;
  std::string text = "shared beginning of many prompts: ";
  for (unsigned i = (*random)() % 120; i > 0; --i) {
    text += static_cast<char>('a' + (*random)() % 26);
  }
  client.request = EndlessRequest(text, 1 + (*random)() % 200);
  client.request.set_priority(static_cast<int32_t>((*random)() % 3));
  client.request.set_tenant("tenant-" + std::to_string((*random)() % 4));
  client.request.mutable_sampling()->set_n(1 + (*random)() % 2);
  client.cancel_after = static_cast<int>((*random)() % 20);
  if (client.kind == Kind::kMalformed) client.request.mutable_sampling()->set_top_p(-1);
  return client;
}

void RunClient(TestServer* server, Client* client) {
  grpc::ClientContext context;
  const auto reader = server->stub().Generate(&context, client->request);
  int messages = 0;
  for (v1::GenerateResponse response; reader->Read(&response);) {
    client->outcome.Add(response);
    if (client->kind == Kind::kCancelled && messages == client->cancel_after) context.TryCancel();
    if (client->kind == Kind::kSlow) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    ++messages;
  }
  client->outcome.status = reader->Finish();
}

// What the engine says: the prompt and the end token, over and over.
std::string Expected(const std::string& prompt, size_t tokens) {
  std::string text;
  for (size_t i = 0; i < tokens; ++i) {
    const size_t at = i % (prompt.size() + 1);
    if (at < prompt.size()) text += prompt[at];
  }
  return text;
}

void ExpectOneOutcome(const Client& client) {
  const Outcome& outcome = client.outcome;
  for (const auto& [index, choice] : outcome.choices) {
    EXPECT_LE(choice.finals, 1);
    EXPECT_EQ(choice.after_final, 0);
    EXPECT_EQ(choice.text, Expected(client.request.text(), choice.token_ids.size()));
  }
  if (client.kind == Kind::kMalformed) {
    EXPECT_EQ(outcome.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    return;
  }
  if (client.kind == Kind::kCancelled && !outcome.status.ok()) {
    EXPECT_EQ(outcome.status.error_code(), grpc::StatusCode::CANCELLED);
    return;
  }
  ASSERT_TRUE(outcome.status.ok()) << outcome.status.error_message();
  EXPECT_EQ(outcome.choices.size(), client.request.sampling().n());
  for (const auto& [index, choice] : outcome.choices) {
    EXPECT_EQ(choice.finals, 1);
    EXPECT_EQ(choice.token_ids.size(), client.request.sampling().max_tokens());
  }
}

TEST(Storm, EveryCallHasOneOutcomeAndEveryPageComesBack) {
  TestServerOptions options;
  options.total_pages = 100;  // far fewer than all streams need: preemption is part of it
  options.scheduler.channel_tokens = 16;
  TestServer server(options);
  server.engine().set_step_delay_us(50);
  for (int round = 0; round < kRounds; ++round) {
    SCOPED_TRACE("seed " + std::to_string(round));
    std::mt19937 random(round);
    std::vector<Client> clients;
    for (int i = 0; i < kStreams; ++i) clients.push_back(MakeClient(&random));
    std::vector<std::thread> threads;
    for (Client& client : clients) threads.emplace_back(RunClient, &server, &client);
    for (std::thread& thread : threads) thread.join();
    for (const Client& client : clients) ExpectOneOutcome(client);
    server.ExpectIdle();
  }
}

}  // namespace
}  // namespace skim
