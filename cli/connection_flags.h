// The flags by which every client program finds the daemon.
#pragma once

#include <CLI/CLI.hpp>

#include "cli/connection.h"

namespace skim {

// `options` is written to when `app` parses, so it must outlive that.
void RegisterConnectionFlags(CLI::App* app, ConnectionOptions* options);

}  // namespace skim
