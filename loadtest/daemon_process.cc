#include "loadtest/daemon_process.h"

#include <signal.h>

#include <algorithm>
#include <fstream>
#include <string_view>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"

namespace skim {

namespace {

// HOST:PORT behind `prefix` in `word`; empty if it is not that.
std::string AddressBehind(std::string_view prefix, const std::string& word) {
  int port = 0;
  const size_t colon = word.rfind(':');
  const bool fits = word.starts_with(prefix) && colon != std::string::npos &&
                    colon > prefix.size() && absl::SimpleAtoi(word.substr(colon + 1), &port) &&
                    port > 0 && port <= 65535;
  return fits ? word.substr(prefix.size()) : "";
}

}  // namespace

absl::StatusOr<ReadyLine> ParseReadyLine(const std::string& line) {
  const std::vector<std::string> words = absl::StrSplit(line, ' ');
  if (words.size() >= 3 && words[0] == "ready") {
    ReadyLine ready = {AddressBehind("grpc=", words[1]), AddressBehind("metrics=", words[2]), {}};
    for (size_t i = 3; i < words.size(); ++i) {
      ready.worker_addresses.push_back(
          AddressBehind("worker=", words[i].substr(0, words[i].find('/'))));
    }
    const bool workers_fit = std::ranges::count(ready.worker_addresses, "") == 0;
    if (workers_fit && !ready.grpc_address.empty() && !ready.metrics_address.empty()) return ready;
  }
  return absl::InvalidArgumentError("not a ready line: '" + line + "'");
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
