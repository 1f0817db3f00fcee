// The ports for gateways: on each VllmEngine, with savings of its own for all that comes through
// it, as that protocol has no fields for them. Each is a model of its own to a gateway, and has
// its own view of the prefix cache.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/kv_journal.h"
#include "server/load_report.h"
#include "server/rpc_server.h"
#include "server/vllm_service.h"

namespace skim {

struct WorkerAddress {
  ListenAddress address;
  std::string savings;  // see savings.h; empty = none

  std::string ToString() const {
    return address.ToString() + (savings.empty() ? "" : "/" + savings);
  }
};

// "HOST:PORT" or "HOST:PORT/SAVINGS".
absl::StatusOr<WorkerAddress> ParseWorkerAddress(const std::string& text);

// Whether calls with the savings of each address can be served; as CheckSavings.
absl::Status CheckWorkerSavings(const std::vector<WorkerAddress>& workers,
                                const ServedModel& model);

class WorkerPorts final : public PrefixListener {
 public:
  // Listens at once. `rpc` but for its address; borrows the rest.
  static absl::StatusOr<std::unique_ptr<WorkerPorts>> Listen(
      const std::vector<WorkerAddress>& workers, const RpcServerOptions& rpc,
      const CallServices& services, const ServingGate* gate, LoadReportService* load_report);

  // Before the loop starts. `model` has passed CheckWorkerSavings.
  void Begin(const ServedModel& model, int32_t page_tokens);
  void OnPrefixChange(std::span<const PrefixEvent> events) override;

  void SetServing(bool serving);
  void SetAlive(bool alive);
  void Shutdown(Micros grace);

  bool empty() const { return ports_.empty(); }
  // As bound.
  std::vector<WorkerAddress> addresses() const;

 private:
  struct Port {
    Port(const std::string& savings_given, const CallServices& services, const ServingGate* gate)
        : savings(savings_given), service(services, gate, savings, &journal) {}

    const std::string savings;
    KvJournal journal;
    VllmService service;
    std::unique_ptr<RpcServer> server;
  };

  std::vector<std::unique_ptr<Port>> ports_;
};

}  // namespace skim
