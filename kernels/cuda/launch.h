// The kernels of this folder as host functions: each enqueues one launch on `stream`, and the
// caller checks for errors (Runtime::CheckLaunch). Pointers are device memory. No CUDA header
// is needed to call them, and nothing of absl to compile them.
#pragma once

#include <cstdint>

#include "base/types.h"
#include "kernels/kv_layout.h"
#include "kernels/matrix.h"
#include "kernels/ops.h"

struct CUstream_st;

namespace skim::cuda {

using Stream = CUstream_st*;

// bf16 weights in the order in which mma.m16n8k16 wants its B operand: tiles of 8 output
// features x 32 inputs, [tiles of features][tiles of inputs][32 lanes][8]. Lane l of a tile
// holds feature l / 4 and inputs {2p, 2p+1, 2p+8, 2p+9, 2p+16, ..} with p = l % 4, so that one
// 16-byte load per lane feeds two products. Both dimensions are padded with zeros. kGateUp
// puts tile j of the gate at 2j and the tile of the same columns of up at 2j + 1.
struct WeightView {
  const Bf16* data = nullptr;
  int64_t features = 0;     // without padding
  int64_t inputs = 0;       // without padding
  int64_t input_tiles = 0;  // of kTileInputs

  static constexpr int kTileFeatures = 8;
  static constexpr int kTileInputs = 32;
  static constexpr int kTileElements = kTileFeatures * kTileInputs;

  // Element of (feature of the padded, interleaved order; input).
  constexpr int64_t Element(int64_t feature, int64_t input) const {
    const int64_t tile = feature / kTileFeatures * input_tiles + input / kTileInputs;
    const int k = static_cast<int>(input % kTileInputs);
    const int lane = static_cast<int>(feature % kTileFeatures) * 4 + k % 8 / 2;
    return (tile * 32 + lane) * 8 + k / 8 * 2 + k % 2;
  }
};

// What a row of the step needs to find its K/V: filled in from SequenceRows, once per span.
struct RowPlace {
  int32_t block_begin = 0;
  int32_t slots = 0;
  int64_t positions_begin = SequenceRows::kInOrder;
  bool operator==(const RowPlace&) const = default;
};

// y[r] = row tokens[r] of the table.
void LaunchEmbed(Stream stream, const WeightView& table, const TokenId* tokens, Matrix<float> y);
void LaunchRmsNorm(Stream stream, Matrix<const float> x, const float* weight, float eps,
                   Matrix<Bf16> y);
void LaunchGatherRows(Stream stream, Matrix<const float> x, const int32_t* index, Matrix<float> y);
void LaunchScatterRows(Stream stream, Matrix<const float> x, const int32_t* index, Matrix<float> y);

// One arithmetic for any number of rows: a row's result does not depend on the others.
void LaunchLinear(Stream stream, Matrix<const Bf16> x, const WeightView& weight, const float* bias,
                  bool accumulate, Matrix<float> y);
void LaunchLinearSwiGlu(Stream stream, Matrix<const Bf16> x, const WeightView& weight,
                        const float* bias, Matrix<Bf16> y);

// The step's rows on the device; `rows.sequences` is not read.
struct DeviceRows {
  int64_t count = 0;
  const RowPlace* places = nullptr;  // [count]
};
void LaunchRopeAndWriteKv(Stream stream, const RopeWriteArgs& args, const AttentionRows& rows,
                          const DeviceRows& device_rows, const KvLayer& kv);

void LaunchAttention(Stream stream, const AttentionArgs& args, const AttentionRows& rows,
                     const DeviceRows& device_rows, const KvLayer& kv);

// A KeyScoreTarget with what a block needs of its sequence.
struct KeyScoreTask {
  int32_t first_row, rows;  // that score
  int32_t block_begin, slots;
  int64_t positions_begin;
  float* scores;
};
struct DeviceTargets {
  const KeyScoreTask* tasks = nullptr;    // [args.targets]
  const int32_t* scored_heads = nullptr;  // [args.scored_heads], null if there are none
  int32_t most_slots = 0;
};
// Of args.targets and args.scored_heads only the sizes are read.
void LaunchKeyScores(Stream stream, const KeyScoresArgs& args, const DeviceTargets& targets,
                     const AttentionRows& rows, const KvLayer& kv);
// `summed` is scratch, [positions].
void LaunchPoolScores(Stream stream, const PoolScoresArgs& args, float* summed);
// `forced` is args.forced on the device.
void LaunchTopRows(Stream stream, const TopRowsArgs& args, const IndexRange* forced);

// One row to sample, kernels/sampling.h with its lists in device memory.
struct SampleTask {
  float temperature, top_p, min_p;
  float repetition_penalty, frequency_penalty, presence_penalty;
  int32_t top_k, top_logprobs;
  TokenId score;
  double draw;  // u in [0, 1)
  const TokenCount* counts;
  const LogitBias* bias;
  const TokenId* banned;
  int32_t count_count, bias_count, banned_count;
};

struct SampleOutcome {
  TokenId token;
  float logprob;
  int32_t finite, top_count;
};

// outcomes[r] for every row of logits; top[r * max_top ..] its best tokens. `scratch` has the
// shape of the logits and takes the adjusted ones.
void LaunchSample(Stream stream, Matrix<const float> logits, const SampleTask* tasks,
                  Matrix<float> scratch, SampleOutcome* outcomes, TokenLogprob* top,
                  int32_t max_top);

}  // namespace skim::cuda
