// A skimd of our own: started, waited for until it serves, stopped. One thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/types.h"
#include "loadtest/child_process.h"

namespace skim {

struct DaemonOptions {
  std::string skimd;  // path of the program
  std::string model_dir;
  std::vector<std::string> arguments;  // besides model and addresses
  std::string log_path;                // its stderr; empty = ours
  Micros start_timeout = 120'000'000;
};

class DaemonProcess {
 public:
  // Returns when it serves, on free ports of the loopback. Errors quote what it printed.
  static absl::StatusOr<std::unique_ptr<DaemonProcess>> Start(const DaemonOptions& options);

  const std::string& grpc_address() const { return grpc_address_; }        // HOST:PORT
  const std::string& metrics_address() const { return metrics_address_; }  // HOST:PORT
  ChildProcess& process() { return *process_; }

  // SIGTERM, then the exit status.
  absl::StatusOr<int> Stop(Micros timeout);

  // Physical memory it holds now, and the most it ever held.
  absl::StatusOr<int64_t> ResidentBytes() const;
  absl::StatusOr<int64_t> PeakResidentBytes() const;

 private:
  DaemonProcess(std::unique_ptr<ChildProcess> process, std::string grpc_address,
                std::string metrics_address);
  absl::StatusOr<int64_t> ProcStatus(const std::string& key) const;

  std::unique_ptr<ChildProcess> process_;
  const std::string grpc_address_;
  const std::string metrics_address_;
};

// The addresses in skimd's line on stdout, which must be exactly
// "ready grpc=HOST:PORT metrics=HOST:PORT", with " worker=HOST:PORT" or " worker=HOST:PORT/SAVINGS"
// behind it for each port for gateways.
struct ReadyLine {
  std::string grpc_address;
  std::string metrics_address;
  std::vector<std::string> worker_addresses;  // without savings
};
absl::StatusOr<ReadyLine> ParseReadyLine(const std::string& line);

}  // namespace skim
