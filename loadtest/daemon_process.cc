#include "loadtest/daemon_process.h"

#include <signal.h>

#include <fstream>
#include <regex>
#include <utility>

#include "absl/strings/numbers.h"
#include "base/status_macros.h"

namespace skim {

absl::StatusOr<ReadyLine> ParseReadyLine(const std::string& line) {
  static const std::regex pattern(R"(ready grpc=(\S+:\d+) metrics=(\S+:\d+))");
  std::smatch match;
  if (!std::regex_match(line, match, pattern)) {
    return absl::InvalidArgumentError("not a ready line: '" + line + "'");
  }
  return ReadyLine{match[1], match[2]};
}

absl::StatusOr<std::unique_ptr<DaemonProcess>> DaemonProcess::Start(const DaemonOptions& options) {
  std::vector<std::string> argv = {options.skimd, "--model",   options.model_dir, "--listen",
                                   "127.0.0.1:0", "--metrics", "127.0.0.1:0"};
  argv.insert(argv.end(), options.arguments.begin(), options.arguments.end());
  SKIM_ASSIGN_OR_RETURN(auto process, ChildProcess::Start(argv, "", options.log_path));
  const auto line = process->ReadLine(options.start_timeout);
  if (!line.ok()) {
    const auto exit = process->Wait(1'000'000);
    const std::string how = exit.ok() ? "ended with " + std::to_string(*exit) : "does not serve";
    return absl::UnavailableError("skimd " + how + ", see its log");
  }
  SKIM_ASSIGN_OR_RETURN(ReadyLine ready, ParseReadyLine(*line));
  return std::unique_ptr<DaemonProcess>(new DaemonProcess(
      std::move(process), std::move(ready.grpc_address), std::move(ready.metrics_address)));
}

DaemonProcess::DaemonProcess(std::unique_ptr<ChildProcess> process, std::string grpc_address,
                             std::string metrics_address)
    : process_(std::move(process)),
      grpc_address_(std::move(grpc_address)),
      metrics_address_(std::move(metrics_address)) {}

absl::StatusOr<int> DaemonProcess::Stop(Micros timeout) {
  process_->Signal(SIGTERM);
  return process_->Wait(timeout);
}

absl::StatusOr<int64_t> DaemonProcess::ResidentBytes() const { return ProcStatus("VmRSS"); }

absl::StatusOr<int64_t> DaemonProcess::PeakResidentBytes() const { return ProcStatus("VmHWM"); }

absl::StatusOr<int64_t> DaemonProcess::ProcStatus(const std::string& key) const {
  std::ifstream file("/proc/" + std::to_string(process_->pid()) + "/status");
  std::string word;
  while (file >> word) {
    int64_t kib = 0;
    if (word == key + ":" && file >> kib) return kib * 1024;
  }
  return absl::NotFoundError("skimd's " + key + " cannot be read; has it ended?");
}

}  // namespace skim
