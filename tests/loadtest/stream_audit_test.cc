#include "loadtest/stream_audit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>

namespace skim {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::IsEmpty;
using Messages = std::vector<v1::GenerateResponse>;

PlannedRequest Plan(uint32_t max_tokens, uint32_t choices = 1) {
  PlannedRequest planned;
  for (uint32_t i = 0; i < 5; ++i) planned.request.mutable_token_ids()->add_ids(i);
  planned.request.mutable_sampling()->set_max_tokens(max_tokens);
  planned.request.mutable_sampling()->set_ignore_eos(true);
  if (choices > 1) planned.request.mutable_sampling()->set_n(choices);
  return planned;
}

v1::GenerateResponse MakeFinal(uint32_t index, uint32_t generated) {
  v1::GenerateResponse response;
  response.set_index(index);
  response.mutable_final()->set_finish_reason(v1::FINISH_REASON_LENGTH);
  response.mutable_final()->mutable_usage()->set_prompt_tokens(5);
  response.mutable_final()->mutable_usage()->set_generated_tokens(generated);
  return response;
}

// A correct stream, cut into messages and interleaved at random.
Messages CorrectStream(uint32_t max_tokens, uint32_t choices, std::mt19937_64* random) {
  Messages messages;
  std::vector<uint32_t> sent(choices, 0);
  std::vector<uint32_t> open(choices);
  for (uint32_t i = 0; i < choices; ++i) open[i] = i;
  while (!open.empty()) {
    const size_t pick = (*random)() % open.size();
    const uint32_t index = open[pick];
    if (sent[index] == max_tokens) {
      messages.push_back(MakeFinal(index, max_tokens));
      open.erase(open.begin() + static_cast<ptrdiff_t>(pick));
      continue;
    }
    v1::GenerateResponse response;
    response.set_index(index);
    const uint64_t size = (*random)() % std::min(4u, max_tokens - sent[index] + 1);
    for (uint64_t i = 0; i < size; ++i) response.mutable_delta()->add_token_ids(sent[index]++);
    response.mutable_delta()->set_text("x");
    messages.push_back(response);
  }
  return messages;
}

std::vector<Fault> Audit(const PlannedRequest& planned, const Messages& messages,
                         const grpc::Status& status = grpc::Status::OK) {
  StreamAudit audit(planned);
  for (const auto& message : messages) audit.OnResponse(message);
  return audit.Finish(status);
}

std::vector<FaultKind> Kinds(const std::vector<Fault>& faults) {
  std::vector<FaultKind> kinds;
  for (const Fault& fault : faults) kinds.push_back(fault.kind);
  return kinds;
}

TEST(StreamAudit, FindsNothingInCorrectStreams) {
  std::mt19937_64 random(3);
  for (int round = 0; round < 300; ++round) {
    const auto max_tokens = static_cast<uint32_t>(1 + random() % 30);
    const auto choices = static_cast<uint32_t>(1 + random() % 4);
    const Messages messages = CorrectStream(max_tokens, choices, &random);
    EXPECT_THAT(Kinds(Audit(Plan(max_tokens, choices), messages)), IsEmpty()) << "round " << round;
  }
}

TEST(StreamAudit, CountsEveryDroppedAndEveryRepeatedToken) {
  std::mt19937_64 random(4);
  for (int round = 0; round < 300; ++round) {
    const auto choices = static_cast<uint32_t>(1 + random() % 3);
    Messages messages = CorrectStream(20, choices, &random);
    // Repeat or drop the tokens of one message that has some.
    size_t at = random() % messages.size();
    while (messages[at].delta().token_ids_size() == 0) at = (at + 1) % messages.size();
    const int64_t count = messages[at].delta().token_ids_size();
    const bool repeat = random() % 2 == 0;
    if (repeat) {
      messages.insert(messages.begin() + static_cast<ptrdiff_t>(at), messages[at]);
    } else {
      messages.erase(messages.begin() + static_cast<ptrdiff_t>(at));
    }
    const std::vector<Fault> faults = Audit(Plan(20, choices), messages);
    ASSERT_THAT(Kinds(faults),
                ElementsAre(repeat ? FaultKind::kDuplicateTokens : FaultKind::kMissingTokens));
    EXPECT_EQ(faults[0].count, count);
  }
}

TEST(StreamAudit, SeesThroughUsageThatWasCountedDownToo) {
  Messages messages(1);
  for (uint32_t i = 0; i < 9; ++i) messages[0].mutable_delta()->add_token_ids(i);
  messages.push_back(MakeFinal(0, 9));
  EXPECT_THAT(Kinds(Audit(Plan(10), messages)), ElementsAre(FaultKind::kWrongLength));
  EXPECT_THAT(Kinds(Audit(Plan(8), messages)), ElementsAre(FaultKind::kWrongLength));
  EXPECT_THAT(Kinds(Audit(Plan(9), messages)), IsEmpty());
}

TEST(StreamAudit, WantsExactlyOneFinalPerChoiceAndNothingAfterIt) {
  std::mt19937_64 random(5);
  const Messages correct = CorrectStream(6, 2, &random);

  Messages two_finals = correct;
  two_finals.push_back(correct.back());
  EXPECT_THAT(Kinds(Audit(Plan(6, 2), two_finals)), ElementsAre(FaultKind::kSeveralFinals));

  Messages no_final = correct;
  no_final.pop_back();
  EXPECT_THAT(Kinds(Audit(Plan(6, 2), no_final)), ElementsAre(FaultKind::kNoFinal));

  Messages late = correct;
  late.emplace_back().mutable_delta()->set_text("late");
  EXPECT_THAT(Kinds(Audit(Plan(6, 2), late)), ElementsAre(FaultKind::kEventAfterFinal));

  Messages stranger = correct;
  stranger.emplace_back().set_index(2);
  EXPECT_THAT(Kinds(Audit(Plan(6, 2), stranger)), ElementsAre(FaultKind::kUnknownChoice));
}

TEST(StreamAudit, ChecksWhatTheFinalMessageSays) {
  Messages messages = {MakeFinal(0, 0)};
  messages[0].mutable_final()->clear_finish_reason();
  messages[0].mutable_final()->mutable_usage()->set_prompt_tokens(4);
  const std::vector<FaultKind> kinds = Kinds(Audit(Plan(3), messages));
  EXPECT_THAT(kinds,
              ElementsAre(FaultKind::kBadFinal, FaultKind::kBadFinal, FaultKind::kWrongLength));
}

TEST(StreamAudit, WantsTheWeightsThatWereAskedFor) {
  std::mt19937_64 random(7);
  Messages messages = CorrectStream(3, 1, &random);
  PlannedRequest planned = Plan(3);
  planned.request.set_weights(v1::WEIGHT_FORMAT_INT8);
  EXPECT_THAT(Kinds(Audit(planned, messages)), ElementsAre(FaultKind::kBadFinal));
  for (auto& message : messages) {
    if (message.has_final()) message.mutable_final()->set_weights(v1::WEIGHT_FORMAT_INT8);
  }
  EXPECT_THAT(Kinds(Audit(planned, messages)), IsEmpty());
}

TEST(StreamAudit, JudgesTheStatusByWhatTheClientDid) {
  using grpc::StatusCode;
  const std::map<Behaviour, std::vector<StatusCode>> allowed = {
      {Behaviour::kNormal, {StatusCode::RESOURCE_EXHAUSTED}},
      {Behaviour::kCancel, {StatusCode::RESOURCE_EXHAUSTED, StatusCode::CANCELLED}},
      {Behaviour::kSlowReader,
       {StatusCode::RESOURCE_EXHAUSTED, StatusCode::CANCELLED, StatusCode::DEADLINE_EXCEEDED,
        StatusCode::ABORTED}},
      {Behaviour::kMalformed,
       {StatusCode::INVALID_ARGUMENT, StatusCode::OUT_OF_RANGE, StatusCode::UNIMPLEMENTED,
        StatusCode::NOT_FOUND}}};
  for (const auto& [behaviour, codes] : allowed) {
    for (int code = 1; code <= StatusCode::UNAUTHENTICATED; ++code) {
      PlannedRequest planned = Plan(3);
      planned.behaviour = behaviour;
      const std::vector<FaultKind> kinds =
          Kinds(Audit(planned, {}, grpc::Status(static_cast<StatusCode>(code), "")));
      const bool fine = std::count(codes.begin(), codes.end(), code) > 0;
      EXPECT_EQ(kinds.empty(), fine) << static_cast<int>(behaviour) << " ended with " << code;
    }
  }
}

TEST(StreamAudit, ReportsAMalformedRequestThatWasServed) {
  PlannedRequest planned = Plan(1);
  planned.behaviour = Behaviour::kMalformed;
  std::mt19937_64 random(6);
  EXPECT_THAT(Kinds(Audit(planned, CorrectStream(1, 1, &random))),
              Contains(FaultKind::kAcceptedMalformed));
}

}  // namespace
}  // namespace skim
