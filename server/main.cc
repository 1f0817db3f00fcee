#include <cstdio>
#include <memory>

#include "grpc/support/log.h"
#include "server/config.h"
#include "server/daemon.h"
#include "server/signals.h"
#include "spdlog/sinks/stdout_color_sinks.h"
#include "spdlog/spdlog.h"

int main(int argc, char** argv) {
  auto parsed = skim::ParseCommandLine(argc, argv);
  if (const auto* exit = std::get_if<skim::EarlyExit>(&parsed)) {
    std::fputs(exit->message.c_str(), exit->code == 0 ? stdout : stderr);
    return exit->code;
  }
  const auto& config = std::get<skim::ServerConfig>(parsed);

  skim::Signals signals;
  spdlog::logger log("skimd", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
  log.set_level(spdlog::level::from_str(config.log_level));
  // gRPC's own remarks about its insides help its developers only.
  if (config.log_level != "debug") gpr_set_log_function([](gpr_log_func_args*) {});

  const absl::Status status = skim::RunDaemon(config, &signals, &log);
  if (status.ok()) return 0;
  std::fprintf(stderr, "skimd: %s\n", std::string(status.message()).c_str());
  return 1;
}
