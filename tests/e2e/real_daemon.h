// skimd as it is shipped, with the default model, for one test.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "cli/connection.h"
#include "loadtest/daemon_process.h"
#include "loadtest/stream_record.h"

namespace skim {

inline constexpr Micros kLong = 120'000'000;

std::string SkimdPath();
std::string DefaultModelDir();

// A directory of this test program, empty when first asked for.
std::string ScratchDir();

// Fails the test if it does not start. Memory for keys and values, and further arguments, as
// for skimd.
std::unique_ptr<DaemonProcess> StartDaemon(const std::string& kv_cache = "256MiB",
                                           const std::vector<std::string>& arguments = {});

std::unique_ptr<Connection> Connect(const DaemonProcess& daemon);

// Greedy continuation of `text` by exactly `tokens` tokens.
v1::GenerateRequest Continue(const std::string& text, uint32_t tokens);

struct Reply {
  grpc::Status status;
  std::string text;
  std::vector<uint32_t> token_ids;
  std::vector<v1::Final> finals;
};
Reply Generate(const Connection& connection, const v1::GenerateRequest& request);

struct PageCounts {
  double free = -1;
  double cached = -1;
  double owned = -1;
  double Total() const { return free + cached + owned; }
};

// Waits until nothing runs or waits and no sequence owns a page, and returns the counts. Gives
// up after a while, with the counts as they are.
PageCounts PagesWhenIdle(const DaemonProcess& daemon);

}  // namespace skim
