// The `skim` program itself, run as a user runs it, against a scripted service.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <thread>

#include "loadtest/child_process.h"
#include "tests/loadtest/fake_inference.h"

namespace skim {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using Writer = FakeInference::Writer;

constexpr Micros kLong = 30'000'000;

std::string TempPath(const char* name) {
  return testing::TempDir() + "/skim_cli_" + std::to_string(getpid()) + "_" + name;
}

std::string Slurp(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::unique_ptr<ChildProcess> StartSkim(const std::string& address,
                                        std::vector<std::string> arguments,
                                        const std::string& stdin_path = "") {
  arguments.insert(arguments.begin(), {SKIM_BINARY_DIR "/bin/skim", "--server", address});
  auto child = ChildProcess::Start(arguments, stdin_path, TempPath("stderr"));
  EXPECT_TRUE(child.ok()) << child.status();
  return *std::move(child);
}

struct Result {
  int exit = -1;
  std::string out;
  std::string err;
};

Result RunSkim(const std::string& address, const std::vector<std::string>& arguments,
               const std::string& input = "") {
  const std::string stdin_path = TempPath("stdin");
  std::ofstream(stdin_path) << input;
  const auto child = StartSkim(address, arguments, stdin_path);
  Result result;
  result.out = *child->ReadAll(kLong);
  result.exit = *child->Wait(kLong);
  result.err = Slurp(TempPath("stderr"));
  return result;
}

v1::GenerateResponse Text(const std::string& text, uint32_t index = 0) {
  v1::GenerateResponse response;
  response.set_index(index);
  response.mutable_delta()->set_text(text);
  return response;
}

TEST(SkimGenerate, ShowsTextWhileTheRestIsStillToCome) {
  std::atomic<bool> seen = false;
  const FakeInference fake([&](auto& request, auto*, Writer* writer) {
    writer->Write(Text("first\n"));
    while (!seen) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    writer->Write(Text("second"));
    writer->Write(FakeInference::Final(request));
    return grpc::Status::OK;
  });
  const auto child = StartSkim(fake.address(), {"generate", "hello"});
  EXPECT_EQ(*child->ReadLine(kLong), "first");
  seen = true;
  EXPECT_EQ(*child->ReadLine(kLong), "second");
  EXPECT_EQ(*child->Wait(kLong), 0);
}

TEST(SkimGenerate, TakesThePromptAsArgumentOrFromStandardInput) {
  const FakeInference fake([](auto& request, auto*, Writer* writer) {
    writer->Write(Text("<" + request.text() + "|" + request.sampling().stop(0) + ">"));
    writer->Write(FakeInference::Final(request));
    return grpc::Status::OK;
  });
  EXPECT_EQ(RunSkim(fake.address(), {"generate", "--stop", "x", "a b"}).out, "<a b|x>\n");
  EXPECT_EQ(RunSkim(fake.address(), {"generate", "--stop", "x"}, "from\nstdin").out,
            "<from\nstdin|x>\n");
}

TEST(SkimGenerate, PrintsUsageAndTimingsToStderr) {
  const FakeInference fake;
  const Result result = RunSkim(
      fake.address(), {"generate", "--max-tokens", "3", "--weights", "int8", "--stats", "p"});
  EXPECT_EQ(result.exit, 0);
  EXPECT_EQ(result.out, "t0 t1 t2 \n");
  EXPECT_THAT(result.err, HasSubstr("finish length"));
  EXPECT_THAT(result.err, HasSubstr("generated 3"));
  EXPECT_THAT(result.err, HasSubstr("queue 1.5 ms"));
  EXPECT_THAT(result.err, HasSubstr("weights int8"));
}

TEST(SkimGenerate, JsonHasOneMessageALine) {
  const FakeInference fake;
  const Result result = RunSkim(fake.address(), {"generate", "--max-tokens", "2", "--json", "p"});
  std::istringstream lines(result.out);
  std::vector<nlohmann::json> messages;
  for (std::string line; std::getline(lines, line);) {
    messages.push_back(nlohmann::json::parse(line));
  }
  ASSERT_EQ(messages.size(), 3u);
  EXPECT_EQ(messages[1]["delta"]["token_ids"][0], 1);
  EXPECT_EQ(messages[2]["final"]["usage"]["generated_tokens"], 2);
}

TEST(SkimGenerate, KeepsChoicesApart) {
  const FakeInference fake([](auto&, auto*, Writer* writer) {
    for (const char* piece : {"a", "b"}) {
      for (uint32_t choice = 0; choice < 2; ++choice) writer->Write(Text(piece, choice));
    }
    return grpc::Status::OK;
  });
  EXPECT_EQ(RunSkim(fake.address(), {"generate", "-n", "2", "p"}).out, "ab\n--- choice 1\nab\n");
}

TEST(SkimGenerate, InterruptCancelsTheRequest) {
  std::atomic<bool> cancelled = false;
  const FakeInference fake([&](auto&, auto* context, Writer* writer) {
    writer->Write(Text("first\n"));
    while (!context->IsCancelled()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    cancelled = true;
    return grpc::Status::CANCELLED;
  });
  const auto child = StartSkim(fake.address(), {"generate", "hello"});
  EXPECT_EQ(*child->ReadLine(kLong), "first");
  child->Signal(SIGINT);
  EXPECT_EQ(*child->Wait(kLong), 130);
  while (!cancelled) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

TEST(SkimGenerate, ErrorsAreOneLineAndAnExitCode) {
  const FakeInference fake([](auto&, auto*, auto*) {
    return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "sampling.top_p: must be above 0");
  });
  const Result refused = RunSkim(fake.address(), {"generate", "--top-p", "0", "p"});
  EXPECT_EQ(refused.exit, 2);
  EXPECT_EQ(refused.err,
            "skim: INVALID_ARGUMENT: sampling.top_p: must be above 0; change that value and try "
            "again\n");
  const Result nobody = RunSkim("127.0.0.1:1", {"generate", "p"});
  EXPECT_EQ(nobody.exit, 3);
  EXPECT_THAT(nobody.err, HasSubstr("127.0.0.1:1"));
  EXPECT_EQ(RunSkim(fake.address(), {"generate", "--no-such-flag"}).exit, 2);
  EXPECT_EQ(RunSkim(fake.address(), {"generate", "--logprobs", "2", "p"}).exit, 2);
  EXPECT_EQ(RunSkim(fake.address(), {}).exit, 2);
}

// Answers "<number of messages>:<last message>".
grpc::Status AnswerChat(const v1::GenerateRequest& request, grpc::ServerContext*, Writer* writer) {
  const auto& messages = request.chat().messages();
  writer->Write(Text(std::to_string(messages.size()) + ":" + messages.rbegin()->content()));
  writer->Write(FakeInference::Final(request));
  return grpc::Status::OK;
}

TEST(SkimChat, EachLineOfAPipeIsATurnAndTheHistoryGrows) {
  const FakeInference fake(AnswerChat);
  const Result result =
      RunSkim(fake.address(), {"chat", "--system", "be brief"}, "one\n\n  \ntwo\nthree");
  EXPECT_EQ(result.exit, 0);
  EXPECT_EQ(result.out, "2:one\n4:two\n6:three\n");
}

TEST(SkimChat, AScriptSeesAFailure) {
  const FakeInference fake([](auto&, auto*, auto*) {
    return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "queue full");
  });
  EXPECT_EQ(RunSkim(fake.address(), {"chat"}, "one\ntwo\n").exit, 4);
  EXPECT_EQ(fake.calls(), 1);
}

// A pseudo terminal whose far end plays the person at the keyboard.
class Terminal {
 public:
  Terminal() : fd_(posix_openpt(O_RDWR | O_NOCTTY)) {
    grantpt(fd_);
    unlockpt(fd_);
  }
  ~Terminal() { close(fd_); }
  std::string path() const { return ptsname(fd_); }
  void Type(const std::string& text) {
    EXPECT_EQ(write(fd_, text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }

 private:
  const int fd_;
};

TEST(SkimChat, InterruptReturnsToThePromptAndTheEndOfInputEnds) {
  std::atomic<int> cancelled = 0;
  const FakeInference fake([&](auto& request, auto* context, Writer* writer) {
    if (request.chat().messages().rbegin()->content() != "go on forever") {
      return AnswerChat(request, context, writer);
    }
    writer->Write(Text("for\n"));
    while (!context->IsCancelled()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    ++cancelled;
    return grpc::Status::CANCELLED;
  });
  Terminal terminal;
  const auto child = StartSkim(fake.address(), {"chat"}, terminal.path());
  terminal.Type("go on forever\n");
  EXPECT_EQ(*child->ReadLine(kLong), "for");
  child->Signal(SIGINT);
  terminal.Type("hello\n");
  // What was said until the interruption is part of the conversation.
  EXPECT_EQ(*child->ReadLine(kLong), "3:hello");
  while (cancelled < 1) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  terminal.Type("\x04");
  EXPECT_EQ(*child->Wait(kLong), 0);
}

TEST(SkimModel, ShowsWhatIsServed) {
  const FakeInference fake;
  const Result result = RunSkim(fake.address(), {"model"});
  EXPECT_EQ(result.exit, 0);
  EXPECT_THAT(result.out, HasSubstr("vocabulary     1000\n"));
  EXPECT_THAT(result.out,
              HasSubstr("weights        bf16 1.0 MiB (default), int4 0.3 MiB, common 2.0 MiB\n"));
  EXPECT_THAT(result.out,
              HasSubstr("pruning        after layers 18, 23; prompts from 1000 tokens on\n"
                        "  fast         keeps 30 %, 12.5 %; lazy, revives 8\n"));
}

// Answers 11 tokens in 100 ms, or in 40 with drafts; has no exit layer 99.
grpc::Status AnswerSweep(const v1::GenerateRequest& request, grpc::ServerContext*, Writer* writer) {
  const v1::Speculation& speculation = request.speculation();
  if (speculation.self().exit_layer() == 99) {
    return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "speculation.self.exit_layer: [1, 12]");
  }
  v1::GenerateResponse response = FakeInference::Final(request);
  v1::Final* final = response.mutable_final();
  final->mutable_usage()->set_generated_tokens(11);
  final->mutable_timings()->set_generation_ms(speculation.has_off() ? 100 : 40);
  writer->Write(response);
  return grpc::Status::OK;
}

TEST(SkimSweep, ShowsEveryDrafterAndWhyOneIsRefused) {
  std::atomic<int> refusals = 0;
  const FakeInference fake([&](auto& request, auto* context, Writer* writer) {
    EXPECT_EQ(request.sampling().temperature(), 0);
    const grpc::Status status = AnswerSweep(request, context, writer);
    if (!status.ok()) ++refusals;
    return status;
  });
  const std::string prompts = TempPath("prompts.jsonl"), json = TempPath("sweep.json");
  std::ofstream(prompts) << "{\"prompt\": \"a\"}\n{\"prompt\": \"b\"}\n{\"prompt\": \"c\"}\n";
  const Result result =
      RunSkim(fake.address(), {"sweep", prompts, "--drafters", "self:3,self:99", "--draft-tokens",
                               "2,8", "--limit", "2", "--json", json});
  EXPECT_EQ(result.exit, 0) << result.err;
  EXPECT_EQ(result.err, "") << "a bar is for terminals";
  EXPECT_THAT(result.out, HasSubstr("self:3               8       250.0     2.50x"));
  EXPECT_THAT(result.out, HasSubstr("self:99              2 refused: INVALID_ARGUMENT: speculation."
                                    "self.exit_layer: [1, 12]"));
  EXPECT_EQ(refusals, 2) << "once each";
  EXPECT_EQ(nlohmann::json::parse(Slurp(json))["prompts"], 2);
}

TEST(SkimSweep, EndsWhereNothingCanBeCompared) {
  const FakeInference fake([](auto&, auto*, auto*) {
    return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "chat: too long");
  });
  const std::string prompts = TempPath("prompts.jsonl");
  std::ofstream(prompts) << "{\"prompt\": \"a\"}\n";
  EXPECT_EQ(RunSkim(fake.address(), {"sweep", prompts, "--drafters", "lookup"}).exit, 2);
  EXPECT_EQ(RunSkim(fake.address(), {"sweep", "/nowhere"}).exit, 2);
}

TEST(SkimTokenize, ShowsIdsAndPieces) {
  const FakeInference fake;
  EXPECT_EQ(RunSkim(fake.address(), {"tokenize", "a\n"}).out,
            "      97  \"a\"\n      10  \"\\n\"\n");
  EXPECT_EQ(RunSkim(fake.address(), {"tokenize", "--ids", "ab"}).out, "97 98\n");
  EXPECT_EQ(RunSkim(fake.address(), {"tokenize", "--chat", "--ids"}, "c").out, "99\n");
}

}  // namespace
}  // namespace skim
