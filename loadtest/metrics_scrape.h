// What a daemon's /metrics says right now.
#pragma once

#include <map>
#include <string>

#include "absl/status/statusor.h"

namespace skim {

// Values by series, as written there: `skim_kv_pages{state="free"}`.
using MetricValues = std::map<std::string, double>;

// `address` is HOST:PORT.
absl::StatusOr<MetricValues> ScrapeMetrics(const std::string& address);

// INVALID_ARGUMENT names the line that is no Prometheus text.
absl::StatusOr<MetricValues> ParseMetrics(const std::string& text);

}  // namespace skim
