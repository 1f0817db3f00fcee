// Measures a daemon that serves nobody else, over gRPC as its users would. Each figure is the
// median of several repetitions.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "loadtest/bench_client.h"
#include "loadtest/serve_cost.h"
#include "loadtest/stream_record.h"

namespace skim {

class ServeBench {
 public:
  using Emit = std::function<void(const nlohmann::ordered_json&)>;

  // Borrows `client`. Every request asks for `weights`. `emit` gets one JSON object per figure,
  // as docs/benchmarks.md says.
  ServeBench(BenchClient* client, v1::WeightFormat weights, const Roofs& roofs, int repetitions,
             Emit emit);

  // INTERNAL if a stream was not what it should be: then the figures mean nothing.
  absl::Status Run();

 private:
  absl::StatusOr<std::vector<StreamRecord>> Streams(int64_t streams, int64_t prompt_tokens,
                                                    int64_t output_tokens);
  absl::StatusOr<double> Repeat(const std::function<absl::StatusOr<double>()>& once);

  void EmitFigure(const std::string& name, double value, const std::string& unit,
                  nlohmann::ordered_json params, double roof_share) const;

  absl::Status Prefill();
  absl::Status TimeToFirstToken(int64_t prompt_tokens);
  absl::Status Decode(int64_t streams);
  absl::Status Batch();

  BenchClient* const client_;
  const v1::WeightFormat weights_;
  const ServeCost cost_;
  const Roofs roofs_;
  const int repetitions_;
  const Emit emit_;
};

// Tokens per second of all streams together while every one of them is decoding: from the
// last first token to the first last token. INTERNAL if there is no such time.
absl::StatusOr<double> DecodeRate(const std::vector<StreamRecord>& records);

}  // namespace skim
