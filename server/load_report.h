// Load as ORCA tells it: in a trailer of every call that generates, and as a stream of its own
// for clients that balance by it.
#pragma once

#include "grpcpp/server_context.h"
#include "server/load_monitor.h"
#include "xds/service/orca/v3/orca.grpc.pb.h"

namespace skim {

// application_utilization, rps_fractional (sequences), eps, and by name kv_cache_utilization,
// queue_depth and generated_tokens_per_s.
xds::data::orca::v3::OrcaLoadReport BuildLoadReport(const Load& load);

// Before the call's Finish.
void AddLoadTrailer(const LoadMonitor& load, grpc::CallbackServerContext* context);

// No report comes sooner after the last, whatever a client asks for.
inline constexpr Micros kLeastReportInterval = 1'000'000;

// xds.service.orca.v3.OpenRcaService. Needs no token, as health needs none: clients that
// balance ask before they make a call.
class LoadReportService final : public xds::service::orca::v3::OpenRcaService::CallbackService {
 public:
  // Borrows `load`.
  explicit LoadReportService(const LoadMonitor* load) : load_(load) {}

 private:
  grpc::ServerWriteReactor<xds::data::orca::v3::OrcaLoadReport>* StreamCoreMetrics(
      grpc::CallbackServerContext* context,
      const xds::service::orca::v3::OrcaLoadReportRequest* request) override;

  const LoadMonitor* const load_;
};

}  // namespace skim
