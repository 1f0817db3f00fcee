// skimd from its configuration to its end: load, serve, drain.
#pragma once

#include "absl/status/status.h"
#include "server/config.h"
#include "server/signals.h"
#include "spdlog/logger.h"

namespace skim {

// Returns after a shutdown that was asked for (OK) or what kept the daemon from serving.
// Writes the ready line to stdout.
absl::Status RunDaemon(const ServerConfig& config, Signals* signals, spdlog::logger* log);

}  // namespace skim
