// What a load test found, as a table for people and as JSON for programs.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "loadtest/samples.h"
#include "loadtest/stream_record.h"

namespace skim {

struct LoadReport {
  int64_t requests = 0;
  int64_t finished = 0;                   // with a final message and OK
  int64_t cancelled = 0;                  // by us, as planned
  int64_t refused = 0;                    // malformed ones, as they should be
  int64_t slow = 0;                       // slow readers that the server ended
  int64_t failed = 0;                     // anything nobody asked for
  std::map<std::string, int64_t> errors;  // every status but OK, by code
  std::map<std::string, int64_t> faults;  // by kind, counted in tokens where it counts them
  std::vector<std::string> examples;      // the first few faults, in words

  double seconds = 0;  // from the first request sent to the last ended
  int64_t prompt_tokens = 0;
  int64_t generated_tokens = 0;

  // Milliseconds, of finished requests that read as fast as they could. A message with k
  // tokens counts as k inter-token times, each a k-th of the wait for it.
  Samples ttft_ms;
  Samples inter_token_ms;
  Samples e2e_ms;
  Samples queue_ms;  // as the server tells
  Samples late_ms;   // how late we sent; large means that the client was the bottleneck

  bool Clean() const { return failed == 0 && faults.empty(); }
};

LoadReport MakeReport(const std::vector<StreamRecord>& records);
std::string ToTable(const LoadReport& report);
nlohmann::ordered_json ToJson(const LoadReport& report);

}  // namespace skim
