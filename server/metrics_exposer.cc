#include "server/metrics_exposer.h"

#include <exception>

namespace skim {

absl::StatusOr<std::unique_ptr<MetricsExposer>> MetricsExposer::Start(const ListenAddress& listen,
                                                                      const Metrics& metrics) {
  // The web server knows addresses only, no names.
  ListenAddress address = listen;
  if (address.host == "localhost") address.host = "127.0.0.1";
  try {
    auto exposer = std::make_unique<prometheus::Exposer>(address.ToString());
    exposer->RegisterCollectable(metrics.registry());
    address.port = static_cast<uint16_t>(exposer->GetListeningPorts().at(0));
    return std::unique_ptr<MetricsExposer>(new MetricsExposer(std::move(exposer), address));
  } catch (const std::exception&) {
    return absl::FailedPreconditionError("metrics: cannot serve http on " + address.ToString() +
                                         " (address in use, not an IP address or not allowed)");
  }
}

}  // namespace skim
