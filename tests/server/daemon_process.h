// A real skimd as a child process, for end-to-end tests.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "skim/v1/inference.grpc.pb.h"

namespace skim {

class DaemonProcess {
 public:
  // Starts `binary` with `--listen 127.0.0.1:0 --metrics 127.0.0.1:0` and `arguments`.
  // stderr goes to a file that error_text() reads.
  DaemonProcess(const std::string& binary, const std::vector<std::string>& arguments);
  // Kills it if it still runs.
  ~DaemonProcess();
  DaemonProcess(const DaemonProcess&) = delete;
  DaemonProcess& operator=(const DaemonProcess&) = delete;

  // Waits for the ready line and reads the addresses from it. False if the process ended or
  // the time is up.
  bool WaitUntilReady(int timeout_s);
  const std::string& grpc_address() const { return grpc_address_; }
  const std::string& metrics_address() const { return metrics_address_; }
  std::unique_ptr<v1::Inference::Stub> NewStub() const;

  void Signal(int signal) const;
  // Its exit code once it has ended, 128 + n after signal n; -1 if the time is up first.
  int WaitForExit(int timeout_s);

  // Everything it wrote to stdout after WaitUntilReady and WaitForExit.
  const std::string& output_text() const { return output_; }
  std::string error_text() const;
  int64_t resident_bytes() const;

 private:
  // Reads stdout until it holds a line; false if it is closed or the time is up first.
  bool ReadUntilLine(int timeout_s);

  pid_t pid_ = -1;
  int stdout_fd_ = -1;
  int exit_code_ = -1;
  std::string error_file_;
  std::string output_;
  std::string grpc_address_;
  std::string metrics_address_;
};

}  // namespace skim
