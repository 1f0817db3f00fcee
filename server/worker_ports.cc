#include "server/worker_ports.h"

#include "base/check.h"
#include "base/status_macros.h"
#include "server/savings.h"
#include "server/weight_formats.h"

namespace skim {

absl::StatusOr<WorkerAddress> ParseWorkerAddress(const std::string& text) {
  const size_t slash = text.find('/');
  WorkerAddress worker;
  SKIM_ASSIGN_OR_RETURN(worker.address, ParseListenAddress(text.substr(0, slash)));
  if (slash == std::string::npos) return worker;
  worker.savings = text.substr(slash + 1);
  if (worker.savings.empty()) {
    return absl::InvalidArgumentError("\"" + text + "\" names no savings behind the slash");
  }
  return worker;
}

absl::Status CheckWorkerSavings(const std::vector<WorkerAddress>& workers,
                                const ServedModel& model) {
  for (const WorkerAddress& worker : workers) {
    SKIM_RETURN_IF_ERROR(CheckSavings(worker.savings, model, "worker-listen"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<WorkerPorts>> WorkerPorts::Listen(
    const std::vector<WorkerAddress>& workers, const RpcServerOptions& rpc,
    const CallServices& services, const ServingGate* gate, LoadReportService* load_report) {
  auto out = std::make_unique<WorkerPorts>();
  for (const WorkerAddress& worker : workers) {
    auto port = std::make_unique<Port>(worker.savings, services, gate);
    RpcServerOptions options = rpc;
    options.flag = "worker-listen";
    options.listen = worker.address;
    const std::string name = vllm::VllmEngine::service_full_name();
    // The second name is what a template of the llm-d gateway probes.
    SKIM_ASSIGN_OR_RETURN(
        port->server, RpcServer::Start(options, {.services = {&port->service, load_report},
                                                 .health_names = {name, name + "/HealthCheck"}}));
    out->ports_.push_back(std::move(port));
  }
  return out;
}

void WorkerPorts::Begin(const ServedModel& model, int32_t page_tokens) {
  for (const auto& port : ports_) {
    v1::GenerateRequest request;
    SKIM_CHECK(ApplySavings(port->savings, model, "worker-listen", &request).ok());
    const ModelInfo& info = *model.info;
    const auto weights =
        ChooseWeights(request.weights(), info.weights.front().format, "weights", info);
    SKIM_CHECK(weights.ok());
    port->journal.Begin(*weights, page_tokens);
  }
}

void WorkerPorts::OnPrefixChange(std::span<const PrefixEvent> events) {
  for (const auto& port : ports_) port->journal.OnPrefixChange(events);
}

void WorkerPorts::SetServing(bool serving) {
  for (const auto& port : ports_) port->server->SetServing(serving);
}

void WorkerPorts::SetAlive(bool alive) {
  for (const auto& port : ports_) port->server->SetAlive(alive);
}

void WorkerPorts::Shutdown(Micros grace) {
  for (const auto& port : ports_) port->server->Shutdown(grace);
}

std::vector<WorkerAddress> WorkerPorts::addresses() const {
  std::vector<WorkerAddress> out;
  for (const auto& port : ports_) out.push_back({port->server->address(), port->savings});
  return out;
}

}  // namespace skim
