// What gateways are told about the prefix cache: a client that replays the events holds what the
// index holds, whenever it came and however often it went.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "server/kv_journal.h"
#include "tests/server/test_server.h"

namespace skim {
namespace {

using grpc::StatusCode;
using smg::grpc::common::SubscribeKvEventsRequest;
using testing::StartsWith;

// As a gateway does it.
class Replay {
 public:
  // False where a batch does not follow the one before.
  bool Apply(const KvEventBatch& batch) {
    const bool follows = last_ == 0 || batch.sequence_number() == last_ + 1;
    last_ = batch.sequence_number();
    for (const auto& event : batch.events()) {
      if (event.has_cleared()) blocks_.clear();
      for (const int64_t hash : event.removed().block_hashes()) {
        EXPECT_EQ(blocks_.erase(hash), 1u);
      }
      std::string before;
      if (event.stored().has_parent_block_hash()) {
        EXPECT_TRUE(blocks_.contains(event.stored().parent_block_hash()));
        before = blocks_[event.stored().parent_block_hash()];
      }
      for (const auto& block : event.stored().blocks()) {
        EXPECT_EQ(block.block_size(), 16);
        EXPECT_EQ(block.token_ids_size(), 16);
        before += Text({block.token_ids().begin(), block.token_ids().end()});
        EXPECT_TRUE(blocks_.emplace(block.block_hash(), before).second);
      }
    }
    return follows;
  }

  uint64_t last() const { return last_; }
  // Each block with all before it.
  std::multiset<std::string> texts() const {
    std::multiset<std::string> out;
    for (const auto& [hash, text] : blocks_) out.insert(text);
    return out;
  }

 private:
  uint64_t last_ = 0;
  std::map<int64_t, std::string> blocks_;
};

class Subscription {
 public:
  Subscription(TestServer* server, uint64_t last_seen) {
    SubscribeKvEventsRequest request;
    request.set_start_sequence_number(last_seen);
    reader_ = server->worker_stub().SubscribeKvEvents(&context_, request);
  }
  ~Subscription() { context_.TryCancel(); }

  bool Read(KvEventBatch* batch) { return reader_->Read(batch); }
  grpc::Status Finish() { return reader_->Finish(); }
  // Reads on until the replay holds so many blocks.
  void Follow(Replay* replay, size_t blocks) {
    for (KvEventBatch batch; replay->texts().size() != blocks && Read(&batch);) {
      EXPECT_TRUE(replay->Apply(batch));
    }
  }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<KvEventBatch>> reader_;
};

// 40 characters and as many again said: five full blocks of 16.
std::string Story(int number) {
  constexpr std::string_view kRest = "of somebody who went out to see the world";
  const std::string begin = absl::StrCat("Story ", number, " ");
  return absl::StrCat(begin, std::string(kRest.substr(0, 40 - begin.size())));
}

size_t CachedBlocks(const TestServer& server) {
  return static_cast<size_t>(server.Metric("skim_kv_pages", {{"state", "cached"}}));
}

TEST(KvEvents, AReplayHoldsWhatTheIndexHoldsThroughEvictions) {
  TestServerOptions options;
  options.total_pages = 16;
  TestServer server(options);
  Subscription early(&server, 0);
  Replay replay;
  for (int i = 0; i < 12; ++i) {
    // Every third shares its beginning with the one before.
    const Outcome outcome =
        server.Generate(TextRequest(absl::StrCat(Story(i / 3), i % 3 ? " more" : "")));
    ASSERT_TRUE(outcome.status.ok()) << outcome.status.error_message();
  }
  server.ExpectIdle();
  const size_t blocks = CachedBlocks(server);
  EXPECT_GT(blocks, 8u);
  Subscription late(&server, 0);
  Replay snapshot;
  KvEventBatch first;
  ASSERT_TRUE(late.Read(&first));
  EXPECT_TRUE(first.events(0).has_cleared());
  snapshot.Apply(first);
  EXPECT_EQ(snapshot.texts().size(), blocks);
  for (KvEventBatch batch; replay.last() != snapshot.last() && early.Read(&batch);) {
    EXPECT_TRUE(replay.Apply(batch));
  }
  EXPECT_EQ(replay.texts(), snapshot.texts());
  EXPECT_TRUE(replay.texts().contains(Story(3).substr(0, 32)));
}

TEST(KvEvents, AClientThatComesBackGoesOnWhereItWas) {
  TestServer server;
  Replay replay;
  {
    Subscription before(&server, 0);
    EXPECT_TRUE(server.Generate(TextRequest(Story(0))).status.ok());
    before.Follow(&replay, CachedBlocks(server));
  }
  const std::multiset<std::string> then = replay.texts();
  EXPECT_FALSE(then.empty());
  EXPECT_TRUE(server.Generate(TextRequest(Story(1))).status.ok());
  server.ExpectIdle();
  Subscription after(&server, replay.last());
  KvEventBatch batch;
  while (replay.texts().size() != CachedBlocks(server) && after.Read(&batch)) {
    if (batch.sequence_number() == replay.last()) continue;  // it may come twice
    EXPECT_TRUE(replay.Apply(batch));
  }
  EXPECT_EQ(replay.texts().size(), 2 * then.size());
}

TEST(KvEvents, RefusesNumbersOfAnotherLife) {
  TestServer server;
  EXPECT_TRUE(server.Generate(TextRequest(Story(0))).status.ok());
  for (const uint64_t last_seen : {uint64_t{1}, uint64_t{500}, ~uint64_t{0}}) {
    Subscription subscription(&server, last_seen);
    KvEventBatch batch;
    EXPECT_FALSE(subscription.Read(&batch));
    const grpc::Status status = subscription.Finish();
    EXPECT_EQ(status.error_code(), StatusCode::OUT_OF_RANGE);
    EXPECT_THAT(status.error_message(), StartsWith("start_sequence_number: "));
  }
}

TEST(KvEvents, TellNothingOfBlocksThatAGatewaysCallCannotHit) {
  TestServer server;
  v1::GenerateRequest salted = TextRequest(Story(0));
  salted.set_cache_salt("secret");
  EXPECT_TRUE(server.Generate(salted).status.ok());
  v1::GenerateRequest other_format = TextRequest(Story(1));
  other_format.set_weights(v1::WEIGHT_FORMAT_INT8);
  EXPECT_TRUE(server.Generate(other_format).status.ok());
  EXPECT_TRUE(server.Generate(TextRequest(Story(2))).status.ok());
  server.ExpectIdle();
  Subscription subscription(&server, 0);
  KvEventBatch batch;
  ASSERT_TRUE(subscription.Read(&batch));
  Replay replay;
  replay.Apply(batch);
  EXPECT_EQ(3 * replay.texts().size(), CachedBlocks(server));
  for (const std::string& text : replay.texts()) EXPECT_THAT(text, StartsWith("Story 2"));
}

TEST(KvEvents, AnOpenStreamHoldsUpNoShutdownAndNoneIsServedWithoutACache) {
  TestServerOptions options;
  options.scheduler.prefix_cache = false;
  TestServer without(options);
  KvEventBatch batch;
  Subscription none(&without, 0);
  EXPECT_FALSE(none.Read(&batch));
  EXPECT_EQ(none.Finish().error_code(), StatusCode::UNIMPLEMENTED);

  TestServer server;
  Subscription subscription(&server, 0);
  ASSERT_TRUE(subscription.Read(&batch));
  server.stack().Drain(60'000'000);
  EXPECT_FALSE(subscription.Read(&batch));
}

PrefixEvent Stored(uint64_t hash) {
  PrefixEvent event;
  event.stored = true;
  event.hash = hash;
  event.tokens = {1, 2, 3};
  return event;
}

TEST(KvJournal, DropsWhoFallsBehindAndKeepsNoMoreThanItsBound) {
  KvJournal journal(/*max_blocks=*/4);
  journal.Begin(WeightFormat::kBf16, 3);
  auto slow = journal.Open(0);
  ASSERT_TRUE(slow.ok());
  ASSERT_TRUE(journal.Read(&*slow).ok());  // the snapshot
  for (uint64_t hash = 1; hash <= 4; ++hash) {
    journal.OnPrefixChange(std::vector<PrefixEvent>{Stored(hash)});
  }
  auto steady = *slow;
  for (uint64_t hash = 1; hash <= 4; ++hash) {
    const auto batch = journal.Read(&steady);
    ASSERT_TRUE(batch.ok());
    EXPECT_EQ((*batch)->events(0).stored().blocks(0).block_hash(), static_cast<int64_t>(hash));
  }
  EXPECT_TRUE(*journal.Read(&steady) == nullptr);  // nothing yet
  journal.OnPrefixChange(std::vector<PrefixEvent>{Stored(5)});
  EXPECT_TRUE(absl::IsOutOfRange(journal.Read(&*slow).status()));
  EXPECT_TRUE(journal.Read(&steady).ok());
  // A step larger than the bound is kept whole.
  std::vector<PrefixEvent> many;
  for (uint64_t hash = 10; hash < 20; ++hash) many.push_back(Stored(hash));
  journal.OnPrefixChange(many);
  const auto batch = journal.Read(&steady);
  ASSERT_TRUE(batch.ok());
  EXPECT_EQ((*batch)->events_size(), 10);
}

TEST(KvJournal, BlocksOfAChainAreOneEvent) {
  KvJournal journal;
  journal.Begin(WeightFormat::kBf16, 3);
  std::vector<PrefixEvent> chain = {Stored(1), Stored(2), Stored(3), Stored(9)};
  chain[1].parent = 1;
  chain[2].parent = 2;
  chain[3].parent = 1;  // a branch
  journal.OnPrefixChange(chain);
  auto cursor = journal.Open(0);
  ASSERT_TRUE(cursor.ok());
  const KvEventBatch batch = **journal.Read(&*cursor);
  ASSERT_EQ(batch.events_size(), 3);  // what clears comes first
  EXPECT_EQ(batch.events(1).stored().blocks_size(), 3);
  EXPECT_FALSE(batch.events(1).stored().has_parent_block_hash());
  EXPECT_EQ(batch.events(2).stored().parent_block_hash(), 1);
}

}  // namespace
}  // namespace skim
