#include "tests/server/test_server.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "base/check.h"
#include "google/rpc/status.pb.h"

namespace skim {
namespace {

template <typename Detail>
std::vector<Detail> Details(const grpc::Status& status) {
  google::rpc::Status proto;
  std::vector<Detail> found;
  if (!proto.ParseFromString(status.error_details())) return found;
  for (const auto& any : proto.details()) {
    if (any.Is<Detail>()) any.UnpackTo(&found.emplace_back());
  }
  return found;
}

double ValueOf(const prometheus::ClientMetric& metric, prometheus::MetricType type) {
  switch (type) {
    case prometheus::MetricType::Counter:
      return metric.counter.value;
    case prometheus::MetricType::Gauge:
      return metric.gauge.value;
    default:
      return static_cast<double>(metric.histogram.sample_count);
  }
}

// Not one shared with an earlier channel to the same port.
std::shared_ptr<grpc::Channel> OwnConnection(
    const ListenAddress& address, const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(address.ToString(), credentials, arguments);
}

}  // namespace

void Outcome::Add(const v1::GenerateResponse& response) {
  Choice& choice = choices[response.index()];
  if (choice.finals > 0) ++choice.after_final;
  if (response.has_final()) {
    ++choice.finals;
    choice.final = response.final();
    return;
  }
  const v1::Delta& delta = response.delta();
  ++choice.deltas;
  choice.text += delta.text();
  const auto append = [](const auto& from, auto* to) {
    to->insert(to->end(), from.begin(), from.end());
  };
  append(delta.token_ids(), &choice.token_ids);
  append(delta.logprobs(), &choice.logprobs);
  append(delta.prompt_logprobs(), &choice.prompt_logprobs);
}

TestServer::TestServer(TestServerOptions options)
    : options_(std::move(options)),
      log_("test", std::make_shared<spdlog::sinks::ostream_sink_mt>(log_text_)),
      tokenizer_(MakeByteTokenizer()),
      engine_(options_.total_pages, options_.prunes) {
  info_.architecture = "echo";
  info_.layers = 2;
  info_.vocabulary = kTestVocabulary;
  info_.max_context = options_.scheduler.max_context;
  info_.eos_tokens = {kEndToken};
  info_.backend = "echo";
  info_.weights = {{WeightFormat::kBf16, 4000, 1500, 1000}, {WeightFormat::kInt8, 2000, 750, 500}};
  info_.common_weight_bytes = 300;
  if (options_.draft_head) info_.draft_head_bytes = 100;
  if (options_.draft_model) {
    info_.draft_model_bytes = 90;
    info_.draft_model_step_bytes = 80;
  }
  if (options_.exit_adapter) {
    info_.adapted_exits = {1};
    info_.exit_adapter_bytes = 70;
  }
  info_.kv_format = KvFormat::kFp8;
  info_.kv_cache_tokens = 12345;
  if (options_.prunes) {
    info_.lazy.boundaries = {1};
    info_.lazy.profiles = {{"fast", {0.5f}, DecodeMode::kLazy, 4, 1},
                           {"phantom", {0.5f}, DecodeMode::kPhantom, 0, 1}};
    if (options_.predicts) info_.lazy.predicted = {1};
    if (options_.scouts) info_.lazy.scouts = {{.window = 2, .heads = {{1, 0}}}};
    info_.kv_page_bytes = 1024;
  }
  ServingStack::Options stack = options_.stack;
  stack.rpc.listen = {"127.0.0.1", 0};
  WorkerAddress worker;
  worker.address = stack.rpc.listen;
  stack.workers = {worker};
  if (!options_.savings.empty()) {
    worker.savings = options_.savings;
    stack.workers.push_back(worker);
  }
  if (stack.rpc.credentials == nullptr) stack.rpc.credentials = grpc::InsecureServerCredentials();
  auto started = ServingStack::Start(stack, &metrics_, &clock_, &log_);
  SKIM_CHECK(started.ok());
  stack_ = *std::move(started);
  stub_ = v1::Inference::NewStub(NewChannel());
  worker_stub_ = ::vllm::grpc::engine::VllmEngine::NewStub(NewWorkerChannel());
  if (options_.serve) Serve();
}

TestServer::~TestServer() {
  engine_.Resume();
  if (stack_->loop() != nullptr && stack_->loop()->healthy()) ExpectIdle();
  stack_.reset();
  EXPECT_EQ(engine_.complaint(), "");
}

void TestServer::Serve() {
  stack_->Serve(options_.scheduler, &engine_,
                ServedModel{.name = "echo",
                            .directory = options_.model_directory,
                            .info = &info_,
                            .tokenizer = tokenizer_.get(),
                            .loop = nullptr,
                            .limits = options_.limits});
}

std::shared_ptr<grpc::Channel> TestServer::NewChannel(
    const std::shared_ptr<grpc::ChannelCredentials>& credentials) const {
  return OwnConnection(stack_->address(), credentials);
}

std::shared_ptr<grpc::Channel> TestServer::NewWorkerChannel(size_t port) const {
  return OwnConnection(stack_->worker_addresses().at(port).address,
                       grpc::InsecureChannelCredentials());
}

double TestServer::Metric(const std::string& name,
                          const std::map<std::string, std::string>& labels) const {
  double sum = 0;
  for (const auto& family : metrics_.registry()->Collect()) {
    if (family.name != name) continue;
    for (const auto& metric : family.metric) {
      size_t matches = 0;
      for (const auto& label : metric.label) {
        const auto wanted = labels.find(label.name);
        matches += wanted != labels.end() && wanted->second == label.value;
      }
      if (matches == labels.size()) sum += ValueOf(metric, family.type);
    }
  }
  return sum;
}

void TestServer::ExpectIdle() {
  const auto owned = [&] { return Metric("skim_kv_pages", {{"state", "owned"}}); };
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while ((stack_->active_calls() > 0 || stack_->loop()->in_flight() > 0 || owned() > 0) &&
         std::chrono::steady_clock::now() < give_up) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_EQ(stack_->active_calls(), 0u);
  EXPECT_EQ(stack_->loop()->in_flight(), 0);
  EXPECT_EQ(owned(), 0);
  if (Metric("skim_step_rows") == 0) return;  // nothing has run, nothing was reported
  EXPECT_EQ(
      Metric("skim_kv_pages", {{"state", "free"}}) + Metric("skim_kv_pages", {{"state", "cached"}}),
      options_.total_pages);
}

Outcome TestServer::Generate(const v1::GenerateRequest& request, grpc::ClientContext* context) {
  Outcome outcome;
  const auto reader = stub_->Generate(context, request);
  for (v1::GenerateResponse response; reader->Read(&response);) outcome.Add(response);
  outcome.status = reader->Finish();
  return outcome;
}

Outcome TestServer::Generate(const v1::GenerateRequest& request) {
  grpc::ClientContext context;
  return Generate(request, &context);
}

v1::GenerateRequest TextRequest(const std::string& text) {
  v1::GenerateRequest request;
  request.set_text(text);
  return request;
}

v1::GenerateRequest EndlessRequest(const std::string& text, uint32_t max_tokens) {
  v1::GenerateRequest request = TextRequest(text);
  request.mutable_sampling()->set_ignore_eos(true);
  request.mutable_sampling()->set_max_tokens(max_tokens);
  return request;
}

std::string Text(const std::vector<uint32_t>& byte_ids) {
  std::string text;
  for (uint32_t id : byte_ids) {
    if (id < 256) text += static_cast<char>(id);
    if (id == kStToken) text += "ST";
    if (id == kOpToken) text += "OP";
  }
  return text;
}

std::string ViolatedField(const grpc::Status& status) {
  const auto details = Details<google::rpc::BadRequest>(status);
  return details.empty() ? "" : details.front().field_violations(0).field();
}

bool HasRetryInfo(const grpc::Status& status) {
  return !Details<google::rpc::RetryInfo>(status).empty();
}

}  // namespace skim
