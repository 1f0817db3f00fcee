// What pruning prompts saves: every setting beside the exact model, on a daemon that serves
// nobody else, over gRPC. Settings take turns, request by request, so that a machine which
// slows down favours none; every figure is made of medians over repetitions.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "loadtest/bench_client.h"
#include "loadtest/samples.h"
#include "loadtest/serve_cost.h"

namespace skim {

struct LazyBenchOptions {
  std::vector<std::string> profiles = {"safe", "fast", "aggressive", "paper"};
  std::vector<int64_t> lengths = {1024, 2048, 4096, 8000};  // of prompts, ascending
  std::vector<int64_t> output_tokens = {16, 64, 256};       // ascending
  // Everything is compared with the exact model in the first; `fast` runs in the others too.
  std::vector<v1::WeightFormat> weights = {v1::WEIGHT_FORMAT_BF16, v1::WEIGHT_FORMAT_INT8};
  double max_decode_slowdown = 0;  // of the daemon
  int64_t users = 8;         // who decode beside the longest prompt
  Micros quiet = 1'000'000;  // how long they are watched without it
  int repetitions = 3;
};

// The least that runs every part.
void MakeQuick(LazyBenchOptions* options);

class LazyBench {
 public:
  using Emit = std::function<void(const nlohmann::ordered_json&)>;
  using Progress = std::function<void(double share, const std::string& what)>;
  // Pages of the KV cache that requests hold at this moment. Any thread.
  using PagesHeld = std::function<absl::StatusOr<double>()>;

  // Borrows `client`. `emit` gets one JSON object per figure, as docs/benchmarks.md says.
  LazyBench(BenchClient* client, LazyBenchOptions options, const Roofs& roofs, PagesHeld pages_held,
            Emit emit, Progress progress);

  // INVALID_ARGUMENT names the flag that asks for what the server does not have; INTERNAL if a
  // stream was not what it should be: then the figures mean nothing.
  absl::Status Run();
  // For people: a row per setting. After Run.
  std::string Table() const;

 private:
  struct Setting {
    std::string profile;  // empty: exact
    v1::WeightFormat weights;
    bool operator<(const Setting& other) const {
      return std::pair(profile, weights) < std::pair(other.profile, other.weights);
    }
  };
  struct Measured {
    std::map<int64_t, Samples> ttft_s;  // by prompt tokens
    std::map<int64_t, Samples> e2e_s;   // by output tokens, at e2e_length_
    std::map<int64_t, double> pages;    // the same
    Samples quiet_ms, beside_ms;        // between tokens of users

    double SecondsPerToken() const;  // from the first of e2e_s to the last
  };
  struct Row {  // of the table
    std::string setting;
    std::vector<std::string> cells;
  };

  absl::Status Check() const;
  std::vector<Setting> Settings() const;
  BenchWork WorkOf(const Setting& setting, int64_t prompt_tokens, int64_t output_tokens) const;
  absl::Status MeasurePages(const Setting& setting);
  absl::Status MeasureTimes(const Setting& setting, int64_t prompt_tokens);
  absl::Status MeasureUsers();
  // By the arithmetic alone, from what the server tells of the profile (ServeCost).
  double PredictSeconds(const Setting& setting, int64_t prompt_tokens) const;
  void Advance(const std::string& what, int64_t tokens);
  void EmitFigures();
  void EmitFigure(const std::string& name, double value, const std::string& unit,
                  const Setting& setting, nlohmann::ordered_json params);

  BenchClient* const client_;
  const LazyBenchOptions options_;
  const Roofs roofs_;
  const PagesHeld pages_held_;
  const Emit emit_;
  const Progress progress_;
  int64_t e2e_length_ = 0;
  std::string companion_;  // the profile that other weights and users meet
  std::map<Setting, Measured> measured_;
  int64_t done_tokens_ = 0;
  int64_t all_tokens_ = 1;
  std::vector<Row> rows_;
};

}  // namespace skim
