// Serves a Metrics registry over HTTP, on threads of its own.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "prometheus/exposer.h"
#include "server/listen_address.h"
#include "server/metrics.h"

namespace skim {

class MetricsExposer {
 public:
  // GET http://<address>/metrics from now on.
  static absl::StatusOr<std::unique_ptr<MetricsExposer>> Start(const ListenAddress& listen,
                                                               const Metrics& metrics);

  // Shown too, for as long as it lives.
  void Add(const std::shared_ptr<prometheus::Collectable>& more) {
    exposer_->RegisterCollectable(more);
  }

  const ListenAddress& address() const { return address_; }

 private:
  MetricsExposer(std::unique_ptr<prometheus::Exposer> exposer, ListenAddress address)
      : exposer_(std::move(exposer)), address_(std::move(address)) {}

  std::unique_ptr<prometheus::Exposer> exposer_;
  ListenAddress address_;
};

}  // namespace skim
