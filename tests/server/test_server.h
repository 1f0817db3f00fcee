// The whole service on a loopback socket, with the echoing engine below it.
#pragma once

#include <grpcpp/grpcpp.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "google/rpc/error_details.pb.h"
#include "server/serving_stack.h"
#include "skim/v1/inference.grpc.pb.h"
#include "spdlog/sinks/ostream_sink.h"
#include "tests/server/byte_tokenizer.h"
#include "tests/server/echo_engine.h"
#include "vllm/grpc/engine/vllm_engine.grpc.pb.h"

namespace skim {

inline constexpr int32_t kTestContext = 512;
inline constexpr int32_t kTestVocabulary = 270;  // padded: the tokenizer knows fewer

// What a client saw of one call.
struct Outcome {
  struct Choice {
    std::string text;
    std::vector<uint32_t> token_ids;
    std::vector<v1::TokenLogprobs> logprobs;
    std::vector<v1::TokenLogprobs> prompt_logprobs;
    int deltas = 0;
    int finals = 0;
    int after_final = 0;  // messages that came too late
    v1::Final final;
  };
  grpc::Status status;
  std::map<uint32_t, Choice> choices;

  const Choice& only() const { return choices.at(0); }
  void Add(const v1::GenerateResponse& response);
};

struct TestServerOptions {
  int32_t total_pages = 256;
  SchedulerConfig scheduler = {.max_rows_per_step = 64,
                               .max_running = 16,
                               .max_waiting = 256,
                               .max_waiting_tokens = 1 << 16,
                               .max_context = kTestContext};
  ServingStack::Options stack;
  RequestLimits limits;
  std::string model_directory;
  std::string savings;  // of a second port for gateways; empty = there is none
  bool prunes = false;  // one boundary, and the profiles "fast" and "phantom" that keep half
  bool predicts = false;  // the latter is served
  bool scouts = false;    // at the boundary
  bool draft_head = false;
  bool draft_model = false;
  bool exit_adapter = false;  // of layer 1
  bool serve = true;  // else it stays as while loading
};

class TestServer {
 public:
  explicit TestServer(TestServerOptions options = {});
  // Fails the test if a page is lost or held something wrong.
  ~TestServer();

  void Serve();
  // Waits until no call and no sequence is left, then checks the page counts.
  void ExpectIdle();
  // Sum over the labels that contain `labels`, as a scrape would show it.
  double Metric(const std::string& name,
                const std::map<std::string, std::string>& labels = {}) const;

  std::shared_ptr<grpc::Channel> NewChannel(
      const std::shared_ptr<grpc::ChannelCredentials>& credentials =
          grpc::InsecureChannelCredentials()) const;
  // To a port for gateways: 0, or 1 with savings.
  std::shared_ptr<grpc::Channel> NewWorkerChannel(size_t port = 0) const;
  v1::Inference::Stub& stub() { return *stub_; }
  ::vllm::grpc::engine::VllmEngine::Stub& worker_stub() { return *worker_stub_; }
  EchoEngine& engine() { return engine_; }
  ServingStack& stack() { return *stack_; }
  const ModelInfo& info() const { return info_; }
  std::string log() const { return log_text_.str(); }

  Outcome Generate(const v1::GenerateRequest& request, grpc::ClientContext* context);
  Outcome Generate(const v1::GenerateRequest& request);

 private:
  const TestServerOptions options_;
  SteadyClock clock_;
  Metrics metrics_;
  std::ostringstream log_text_;
  spdlog::logger log_;
  const std::unique_ptr<Tokenizer> tokenizer_;
  ModelInfo info_;
  EchoEngine engine_;
  std::unique_ptr<ServingStack> stack_;
  std::unique_ptr<v1::Inference::Stub> stub_;
  std::unique_ptr<::vllm::grpc::engine::VllmEngine::Stub> worker_stub_;
};

v1::GenerateRequest TextRequest(const std::string& text);
// Goes on until max_tokens, whatever it says.
v1::GenerateRequest EndlessRequest(const std::string& text, uint32_t max_tokens);
std::string Text(const std::vector<uint32_t>& byte_ids);

// The field that the status details name; empty if none.
std::string ViolatedField(const grpc::Status& status);
// Whether the details hold google.rpc.RetryInfo.
bool HasRetryInfo(const grpc::Status& status);

}  // namespace skim
