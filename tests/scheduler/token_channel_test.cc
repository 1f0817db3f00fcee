#include "scheduler/token_channel.h"

#include <gtest/gtest.h>

namespace skim {
namespace {

SampledToken Token(TokenId id) {
  SampledToken token;
  token.token = id;
  return token;
}

TEST(TokenChannel, NotifiesOnceUntilItIsDrained) {
  int notified = 0;
  TokenChannel channel(8, [&] { ++notified; });
  channel.Push(Token(1));
  channel.Push(Token(2));
  EXPECT_EQ(notified, 1);
  EXPECT_EQ(channel.Drain().tokens.size(), 2u);
  channel.Close({});
  EXPECT_EQ(notified, 2);
  EXPECT_TRUE(channel.Drain().finish.has_value());
  EXPECT_FALSE(channel.Drain().finish.has_value());
}

TEST(TokenChannel, DeliversTokensInOrderAndTheFinishLast) {
  TokenChannel channel(8, {});
  channel.PushPromptLogprobs({Token(5)});
  channel.PushPromptLogprobs({Token(6)});
  channel.Push(Token(1));
  channel.Push(Token(2));
  Finish finish;
  finish.reason = FinishReason::kLength;
  channel.Close(finish);
  const TokenChannel::Drained got = channel.Drain();
  ASSERT_EQ(got.prompt_logprobs.size(), 2u);
  EXPECT_EQ(got.prompt_logprobs[1].token, 6);
  ASSERT_EQ(got.tokens.size(), 2u);
  EXPECT_EQ(got.tokens[0].token, 1);
  ASSERT_TRUE(got.finish.has_value());
  EXPECT_EQ(got.finish->reason, FinishReason::kLength);
}

TEST(TokenChannel, IsFullAtItsCapacityAndWakesTheProducerWhenDrained) {
  int woken = 0;
  TokenChannel channel(2, {}, [&] { ++woken; });
  EXPECT_TRUE(channel.HasRoom(5)) << "an empty channel has room for any number";
  channel.Push(Token(1));
  EXPECT_TRUE(channel.HasRoom(1));
  channel.Drain();
  EXPECT_EQ(woken, 0) << "nobody waited";
  channel.Push(Token(1));
  channel.Push(Token(2));
  EXPECT_FALSE(channel.HasRoom(1));
  channel.Drain();
  EXPECT_EQ(woken, 1);
  channel.Drain();
  EXPECT_EQ(woken, 1);
  EXPECT_TRUE(channel.HasRoom(1));
}

TEST(TokenChannel, CancelWakesTheProducerOnce) {
  int woken = 0;
  TokenChannel channel(2, {}, [&] { ++woken; });
  EXPECT_FALSE(channel.cancelled());
  channel.Cancel();
  channel.Cancel();
  EXPECT_TRUE(channel.cancelled());
  EXPECT_EQ(woken, 1);
}

}  // namespace
}  // namespace skim
