#include "tests/e2e/real_daemon.h"

#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <thread>

#include "base/clock.h"
#include "loadtest/metrics_scrape.h"

namespace skim {

std::string SkimdPath() { return SKIM_BINARY_DIR "/bin/skimd"; }

std::string DefaultModelDir() { return SKIM_SOURCE_DIR "/models/SmolLM2-135M-Instruct"; }

std::string ScratchDir() {
  const std::string path = testing::TempDir() + "/skim_e2e_" + std::to_string(getpid());
  std::filesystem::create_directories(path);
  return path;
}

std::unique_ptr<DaemonProcess> StartDaemon(const std::string& kv_cache,
                                           const std::vector<std::string>& arguments) {
  DaemonOptions options;
  options.skimd = SkimdPath();
  options.model_dir = DefaultModelDir();
  options.arguments = {"--kv-cache", kv_cache, "--log-level", "warn"};
  options.arguments.insert(options.arguments.end(), arguments.begin(), arguments.end());
  auto daemon = DaemonProcess::Start(options);
  EXPECT_TRUE(daemon.ok()) << daemon.status() << " (the model is made by ./run model)";
  return daemon.ok() ? *std::move(daemon) : nullptr;
}

std::unique_ptr<Connection> Connect(const DaemonProcess& daemon) {
  ConnectionOptions options;
  options.server = daemon.grpc_address();
  options.timeout_s = 300;
  return *Connection::Open(options);
}

v1::GenerateRequest Continue(const std::string& text, uint32_t tokens) {
  v1::GenerateRequest request;
  request.set_text(text);
  request.mutable_sampling()->set_temperature(0);
  request.mutable_sampling()->set_max_tokens(tokens);
  request.mutable_sampling()->set_ignore_eos(true);
  return request;
}

Reply Generate(const Connection& connection, const v1::GenerateRequest& request) {
  Reply reply;
  grpc::ClientContext context;
  connection.Prepare(&context);
  const auto reader = connection.stub().Generate(&context, request);
  v1::GenerateResponse response;
  while (reader->Read(&response)) {
    if (response.has_final()) reply.finals.push_back(response.final());
    reply.text += response.delta().text();
    const auto& ids = response.delta().token_ids();
    reply.token_ids.insert(reply.token_ids.end(), ids.begin(), ids.end());
  }
  reply.status = reader->Finish();
  return reply;
}

PageCounts PagesWhenIdle(const DaemonProcess& daemon) {
  const SteadyClock clock;
  const Micros deadline = clock.Now() + kLong;
  PageCounts pages;
  while (clock.Now() < deadline) {
    const auto metrics = ScrapeMetrics(daemon.metrics_address());
    EXPECT_TRUE(metrics.ok()) << metrics.status();
    if (!metrics.ok()) break;
    pages.free = metrics->at("skim_kv_pages{state=\"free\"}");
    pages.cached = metrics->at("skim_kv_pages{state=\"cached\"}");
    pages.owned = metrics->at("skim_kv_pages{state=\"owned\"}");
    const bool idle =
        metrics->at("skim_requests_running") == 0 && metrics->at("skim_requests_waiting") == 0;
    if (idle && pages.owned == 0) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return pages;
}

}  // namespace skim
