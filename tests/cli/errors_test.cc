#include "cli/errors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace skim {
namespace {

using testing::HasSubstr;
using testing::Not;

grpc::Status WithDetails(grpc::StatusCode code, const std::string& message,
                         const std::vector<std::pair<std::string, std::string>>& violations,
                         int retry_s = 0) {
  google::rpc::Status rich;
  rich.set_code(code);
  if (!violations.empty()) {
    google::rpc::BadRequest bad;
    for (const auto& [field, description] : violations) {
      bad.add_field_violations()->set_field(field);
      bad.mutable_field_violations()->rbegin()->set_description(description);
    }
    rich.add_details()->PackFrom(bad);
  }
  if (retry_s > 0) {
    google::rpc::RetryInfo retry;
    retry.mutable_retry_delay()->set_seconds(retry_s);
    rich.add_details()->PackFrom(retry);
  }
  return {code, message, rich.SerializeAsString()};
}

TEST(Explain, NamesCodeFieldsAndWhatToDo) {
  const grpc::Status status =
      WithDetails(grpc::StatusCode::INVALID_ARGUMENT, "invalid request",
                  {{"sampling.top_p", "must be above 0"}, {"sampling.n", "at most 8"}});
  EXPECT_EQ(Explain(status, "x:1"),
            "INVALID_ARGUMENT: invalid request; sampling.top_p: must be above 0; sampling.n: at "
            "most 8; change that value and try again");
}

TEST(Explain, DoesNotRepeatAViolationThatTheMessageAlreadyTells) {
  const grpc::Status status = WithDetails(grpc::StatusCode::OUT_OF_RANGE, "sampling.n: at most 8",
                                          {{"sampling.n", "at most 8"}});
  EXPECT_EQ(Explain(status, "x:1"),
            "OUT_OF_RANGE: sampling.n: at most 8; change that value and try again");
}

TEST(Explain, TellsWhenToTryAgain) {
  const grpc::Status status =
      WithDetails(grpc::StatusCode::RESOURCE_EXHAUSTED, "queue full", {}, 2);
  EXPECT_EQ(Explain(status, "x:1"), "RESOURCE_EXHAUSTED: queue full; try again in 2 s");
}

TEST(Explain, NamesTheServerThatIsNotThere) {
  EXPECT_THAT(Explain({grpc::StatusCode::UNAVAILABLE, "refused"}, "host:7"), HasSubstr("host:7"));
}

TEST(Explain, IsOneLineWithoutControlCharactersWhateverTheServerSends) {
  const std::string line =
      Explain({grpc::StatusCode::INTERNAL, "a\nb\x1b[2Jc\rd", "not a protobuf \xff"}, "x:1");
  EXPECT_THAT(line, HasSubstr("a b[2Jcd"));
  for (const char c : line) EXPECT_GE(static_cast<unsigned char>(c), 0x20);
}

TEST(ExitCode, IsDifferentForWhatAScriptWouldTreatDifferently) {
  using grpc::StatusCode;
  const std::pair<StatusCode, int> expected[] = {{StatusCode::OK, 0},
                                                 {StatusCode::INTERNAL, 1},
                                                 {StatusCode::DATA_LOSS, 1},
                                                 {StatusCode::INVALID_ARGUMENT, 2},
                                                 {StatusCode::OUT_OF_RANGE, 2},
                                                 {StatusCode::UNIMPLEMENTED, 2},
                                                 {StatusCode::UNAVAILABLE, 3},
                                                 {StatusCode::RESOURCE_EXHAUSTED, 4},
                                                 {StatusCode::DEADLINE_EXCEEDED, 5},
                                                 {StatusCode::UNAUTHENTICATED, 6},
                                                 {StatusCode::PERMISSION_DENIED, 6}};
  for (const auto& [code, exit] : expected) {
    EXPECT_EQ(ExitCodeOf(grpc::Status(code, "")), exit) << CodeName(code);
  }
}

TEST(CodeName, KnowsEveryCode) {
  EXPECT_EQ(CodeName(grpc::StatusCode::OK), "OK");
  EXPECT_EQ(CodeName(grpc::StatusCode::UNAUTHENTICATED), "UNAUTHENTICATED");
  EXPECT_EQ(CodeName(grpc::StatusCode::DO_NOT_USE), "UNKNOWN");
}

}  // namespace
}  // namespace skim
