#include "server/load_report.h"

#include <algorithm>
#include <chrono>
#include <mutex>

#include "grpcpp/alarm.h"

namespace skim {
namespace {

using xds::data::orca::v3::OrcaLoadReport;
using xds::service::orca::v3::OrcaLoadReportRequest;

constexpr Micros kMostReportInterval = 3600 * Micros{1'000'000};

Micros ReportInterval(const OrcaLoadReportRequest& request) {
  const int64_t hour_seconds = kMostReportInterval / 1'000'000;
  const int64_t seconds = std::clamp<int64_t>(request.report_interval().seconds(), 0, hour_seconds);
  return std::max(kLeastReportInterval,
                  seconds * 1'000'000 + request.report_interval().nanos() / 1000);
}

// A report, then one an interval, until the client goes. At any time either a write or the
// alarm is pending, and whichever it is ends the stream once it is cancelled.
class ReportStream final : public grpc::ServerWriteReactor<OrcaLoadReport> {
 public:
  ReportStream(const LoadMonitor* load, Micros interval) : load_(load), interval_(interval) {
    Report();
  }

  void OnWriteDone(bool ok) override {
    {
      std::lock_guard lock(mutex_);
      if (ok && !cancelled_) {
        alarm_.Set(std::chrono::system_clock::now() + std::chrono::microseconds(interval_),
                   [this](bool) { OnAlarm(); });
        return;
      }
    }
    Finish(grpc::Status::CANCELLED);
  }

  void OnCancel() override {
    std::lock_guard lock(mutex_);
    cancelled_ = true;
    alarm_.Cancel();
  }

  void OnDone() override { delete this; }

 private:
  void OnAlarm() {
    bool cancelled = false;
    {
      std::lock_guard lock(mutex_);
      cancelled = cancelled_;
    }
    if (cancelled) {
      Finish(grpc::Status::CANCELLED);
    } else {
      Report();
    }
  }

  void Report() {
    report_ = BuildLoadReport(load_->Read());
    StartWrite(&report_);
  }

  const LoadMonitor* const load_;
  const Micros interval_;
  OrcaLoadReport report_;
  std::mutex mutex_;
  grpc::Alarm alarm_;
  bool cancelled_ = false;
};

}  // namespace

OrcaLoadReport BuildLoadReport(const Load& load) {
  OrcaLoadReport report;
  report.set_application_utilization(load.Utilization());
  report.set_rps_fractional(load.finished_per_s);
  report.set_eps(load.failed_per_s);
  auto& named = *report.mutable_named_metrics();
  named["kv_cache_utilization"] = load.KvUse();
  named["queue_depth"] = load.state.waiting;
  named["generated_tokens_per_s"] = load.generated_tokens_per_s;
  return report;
}

void AddLoadTrailer(const LoadMonitor& load, grpc::CallbackServerContext* context) {
  context->AddTrailingMetadata("endpoint-load-metrics-bin",
                               BuildLoadReport(load.Read()).SerializeAsString());
}

grpc::ServerWriteReactor<OrcaLoadReport>* LoadReportService::StreamCoreMetrics(
    grpc::CallbackServerContext* /*context*/, const OrcaLoadReportRequest* request) {
  return new ReportStream(load_, ReportInterval(*request));
}

}  // namespace skim
