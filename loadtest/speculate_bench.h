// What speculation gains: every drafter beside decoding without, on a daemon that serves nobody
// else, over gRPC. Settings take turns, set by set, so that a machine which slows down favours
// none; every rate is a median over repetitions. Answers are greedy and end where the model ends
// them, so that nobody drafts what nobody would say; an answer that differs from the one without
// speculation fails the benchmark.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "loadtest/bench_client.h"
#include "loadtest/samples.h"
#include "loadtest/serve_cost.h"

namespace skim {

struct SpeculateBenchOptions {
  std::vector<std::string> texts = {"templated", "chat"};  // or "narrow"
  std::string narrow_file = {};                            // as of ReadPrompts: what "narrow" asks
  // As of --speculation; beside "off", which always runs.
  std::vector<std::string> drafters = {"lookup", "self:int8", "self:int4", "auto"};
  std::vector<int64_t> streams = {1, 4, 16};  // at once, each its own prompt; repeated if too many
  std::vector<v1::WeightFormat> weights = {v1::WEIGHT_FORMAT_BF16};  // that verify
  int64_t output_tokens = 160;                                       // at most
  int64_t batches = 1;            // of prompts, one after the other: a repetition
  uint32_t max_draft_tokens = 0;  // a round; 0: the server's default
  int repetitions = 3;
};

// The least that runs every part.
void MakeQuick(SpeculateBenchOptions* options);

// What a drafter did, over all streams and repetitions. Tokens are those behind each first one.
struct DraftedWork {
  double tokens = 0, seconds = 0;
  double rounds = 0, drafted = 0, accepted = 0;
  std::map<v1::WeightFormat, double> draft_rows;

  void Add(const std::vector<StreamRecord>& records);
  void Add(const DraftedWork& other);
  double steps() const { return tokens - accepted; }  // of single sequences
};

class SpeculateBench {
 public:
  using Emit = std::function<void(const nlohmann::ordered_json&)>;
  using Progress = std::function<void(double share, const std::string& what)>;

  // Borrows `client`. `emit` gets one JSON object per figure, as docs/benchmarks.md says.
  SpeculateBench(BenchClient* client, SpeculateBenchOptions options, Emit emit, Progress progress);

  // INVALID_ARGUMENT names the flag that asks for what is not there; INTERNAL if a stream was not
  // what it should be: then the figures mean nothing.
  absl::Status Run();
  // For people: a row per setting. After Run.
  const std::string& table() const { return table_; }

 private:
  struct Case {  // settings that are compared
    std::string text;
    int64_t streams;
    v1::WeightFormat weights;
  };
  struct Measured {
    Samples tokens_per_s;
    DraftedWork work;
  };

  absl::Status Check() const;
  absl::Status ReadTexts();
  std::vector<v1::GenerateRequest> RequestsOf(const Case& which, int64_t batch,
                                              const v1::Speculation& speculation);
  // All batches with one drafter; adds the answers, sorted batch by batch, to `told`.
  absl::StatusOr<DraftedWork> RunBatches(const Case& which, const std::string& drafter,
                                         std::vector<std::vector<uint32_t>>* told);
  absl::Status RunCase(const Case& which);
  void EmitFigures(const Case& which, const std::string& drafter, const Measured& off,
                   const Measured& measured);
  // By the bytes of weights that are read alone, rows being free.
  double PredictSpeedup(const DraftedWork& work, v1::WeightFormat weights,
                        const v1::Speculation& speculation) const;
  absl::StatusOr<v1::Speculation> SpeculationOf(const std::string& drafter) const;

  BenchClient* const client_;
  const SpeculateBenchOptions options_;
  const Emit emit_;
  const Progress progress_;
  std::map<std::string, std::vector<std::string>> prompts_;  // by text
  int64_t sent_ = 0;                                         // requests
  int64_t done_ = 0;                                         // sets
  std::string table_;
};

}  // namespace skim
