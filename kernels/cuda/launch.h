// The kernels of this folder as host functions: each adds its launches to `queue`, and the
// caller checks for errors (Runtime::CheckLaunch). Pointers are device memory. No CUDA header
// is needed to call them, and nothing of absl to compile them.
#pragma once

#include <cstdint>

#include "base/types.h"
#include "kernels/cuda/launch_queue.h"
#include "kernels/kv_layout.h"
#include "kernels/matrix.h"
#include "kernels/ops.h"
#include "kernels/weight.h"
#include "kernels/weight_codes.h"

namespace skim::cuda {

// Weights in the order in which the tensor cores want their B operand: tiles of 8 output features,
// [tiles of features][tiles of inputs][32 lanes][bytes of a lane], so that a lane gets what it
// needs for several products with one load. Lane l of a tile holds feature l / 4 and, p = l % 4,
//   bf16, fp8  of every 16 inputs {2p, 2p+1, 2p+8, 2p+9} (mma.m16n8k16); 32 inputs of two bytes
//              or 64 codes of one
//   int8       of every 32 inputs {4p .. 4p+3, 4p+16 .. 4p+19} (mma.m16n8k32); 64 inputs
//   int4       the same inputs; of every 32 a word, whose low halves are the first four and whose
//              high halves are the others; 64 inputs
// Both dimensions are padded with zeros. kGateUp puts tile j of the gate at 2j and the tile of
// the same columns of up at 2j + 1: "packed features" count in that order.
struct WeightView {
  const std::byte* data = nullptr;
  const float* scales = nullptr;      // fp8, int8: [packed features]
  const Int4Group* groups = nullptr;  // int4: [tiles of features][groups of inputs][8]
  WeightFormat format = WeightFormat::kBf16;
  bool rotated = false;     // int8: x has to be, too (kernels/hadamard.h)
  int64_t features = 0;     // without padding
  int64_t inputs = 0;       // without padding
  int64_t input_tiles = 0;  // of TileInputs(format)

  static constexpr int kTileFeatures = 8;
  static constexpr int TileInputs(WeightFormat format) {
    return format == WeightFormat::kBf16 ? 32 : 64;
  }
  static constexpr int LaneBytes(WeightFormat format) {
    return format == WeightFormat::kInt4 ? 8 : 16;
  }
  constexpr int64_t padded_inputs() const { return input_tiles * TileInputs(format); }

  // Where the number of (packed feature, input) lies: its byte, or for int4 the half of it.
  struct Place {
    int64_t byte;
    int shift;
  };
  constexpr Place At(int64_t feature, int64_t input) const {
    const int inputs = TileInputs(format), k = static_cast<int>(input % inputs);
    const int64_t tile = feature / kTileFeatures * input_tiles + input / inputs;
    const int row = static_cast<int>(feature % kTileFeatures);
    const bool words = format == WeightFormat::kBf16 || format == WeightFormat::kFp8;
    const int lane = row * 4 + (words ? k % 8 / 2 : k % 16 / 4);
    const int64_t base = (tile * 32 + lane) * LaneBytes(format);
    switch (format) {
      case WeightFormat::kBf16:
        return {base + 2 * (k / 8 * 2 + k % 2), 0};
      case WeightFormat::kFp8:
        return {base + k / 8 * 2 + k % 2, 0};
      case WeightFormat::kInt8:
        return {base + k / 16 * 4 + k % 4, 0};
      case WeightFormat::kInt4:
        break;
    }
    return {base + k / 32 * 4 + k % 4, k % 32 / 16 * 4};
  }
};

// Rows of x as a product reads them. int8: codes and a scale a row; int4: codes, and of every 32
// the scale and the scale times the sum of the codes.
struct InputGroup {
  float scale, sum;
};
struct LinearInput {
  const std::byte* data = nullptr;  // bf16, or int8 codes
  int64_t rows = 0;
  int64_t cols = 0;                    // numbers of a row that are there
  int64_t stride = 0;                  // bytes
  const float* scales = nullptr;       // [rows]
  const InputGroup* groups = nullptr;  // [rows][cols / 32]
};

// What a row of the step needs to find its K/V: filled in from SequenceRows, once per span.
struct RowPlace {
  int32_t block_begin = 0;
  int32_t slots = 0;
  int64_t positions_begin = SequenceRows::kInOrder;
  bool operator==(const RowPlace&) const = default;
};

// y[r] = row tokens[r] of the table, which is bf16, or of a pending token's draw.
void LaunchEmbed(LaunchQueue& queue, const WeightView& table, const TokenId* tokens,
                 const TokenId* drawn, Matrix<float> y);
void LaunchRmsNorm(LaunchQueue& queue, Matrix<const float> x, const float* weight, float eps,
                   Matrix<Bf16> y);
// y[r][c] = x[r] . row index[r * y.cols + c] of the table, which is bf16, + bias; -inf where the
// index is negative.
void LaunchLinearAt(LaunchQueue& queue, Matrix<const Bf16> x, const WeightView& table,
                    const int32_t* index, float bias, Matrix<float> y);
void LaunchGatherRows(LaunchQueue& queue, Matrix<const float> x, const int32_t* index,
                      Matrix<float> y);
void LaunchScatterRows(LaunchQueue& queue, Matrix<const float> x, const int32_t* index,
                       Matrix<float> y);

// codes[r] = round(row r of x / its scale), of the rotated row if `rotate`; a row of `padded` codes
// begins every `padded` bytes. As QuantizeRow and QuantizeGroups of kernels/cpu/gemm_kernels.h.
void LaunchQuantizeRows(LaunchQueue& queue, Matrix<const Bf16> x, int64_t padded, bool rotate,
                        int8_t* codes, float* scales);
void LaunchQuantizeGroups(LaunchQueue& queue, Matrix<const Bf16> x, int64_t padded, int8_t* codes,
                          InputGroup* groups);

// One arithmetic for any number of rows: a row's result does not depend on the others.
void LaunchLinear(LaunchQueue& queue, const LinearInput& x, const WeightView& weight,
                  const float* bias, bool accumulate, Matrix<float> y);
void LaunchLinearSwiGlu(LaunchQueue& queue, const LinearInput& x, const WeightView& weight,
                        const float* bias, Matrix<Bf16> y);

// What stands around a product that cuBLASLt computes (large_products.h). Row r of `rows`, each of
// `inputs` numbers, takes the inputs of packed feature first + r, for whole tiles of features:
// bf16 as they are, codes of fp8 as the bf16 that they are, codes of int8. `first`, `features` and
// `inputs` are multiples of 8, `inputs` of int8 all that there are with the padding; `rows` lies on
// 16 bytes. Not for int4.
void LaunchUnpack(LaunchQueue& queue, const WeightView& weight, int64_t first, int64_t features,
                  int64_t inputs, void* rows);
// The sums [x.rows, features] of products with packed features from `first` on, as linear.cu would
// have them: float, of int8 int32.
struct ProductSums {
  const void* data = nullptr;
  int64_t first = 0, features = 0;
};
// Columns of y from sums.first on. As LaunchLinear and LaunchLinearSwiGlu.
void LaunchLinearOf(LaunchQueue& queue, const ProductSums& sums, const LinearInput& x,
                    const WeightView& weight, const float* bias, bool accumulate, Matrix<float> y);
void LaunchLinearSwiGluOf(LaunchQueue& queue, const ProductSums& sums, const LinearInput& x,
                          const WeightView& weight, const float* bias, Matrix<Bf16> y);

// The step's rows on the device; `rows.sequences` is not read.
struct DeviceRows {
  int64_t count = 0;
  const RowPlace* places = nullptr;  // [count]
  int32_t most_slots = 0;            // of a row
};
void LaunchRopeAndWriteKv(LaunchQueue& queue, const RopeWriteArgs& args, const AttentionRows& rows,
                          const DeviceRows& device_rows, const KvLayer& kv);

// Neighbouring rows of a sequence times the query heads of a KV head: pairs, counted row by row.
// A tile of them shares what is read of K and V.
inline constexpr int kLargeAttentionTile = 64, kSmallAttentionTile = 16;
inline constexpr int kAttentionHeadDim = 256;  // at most
struct AttentionTile {
  RowPlace place;
  int32_t first_row = 0;   // of the sequence
  int32_t first_pair = 0;  // the tile's, counted from there
  int32_t pairs = 0;       // >= 1
  bool operator==(const AttentionTile&) const = default;
};
struct AttentionTiles {
  const AttentionTile* tiles = nullptr;  // first those of up to kLargeAttentionTile pairs
  int32_t large = 0, small = 0;
};

// Scratch that attention wants for these rows: room for what is known of a pair between two splits
// of its slots. 0 where no row has more than one.
int64_t AttentionPartFloats(int heads, const DeviceRows& rows, const AttentionTiles& tiles,
                            const KvLayout& layout);
// A pair's result has the same bits whatever tiles there are. Rows of q and out begin on 4 bytes.
void LaunchAttention(LaunchQueue& queue, const AttentionArgs& args, const AttentionRows& rows,
                     const DeviceRows& device_rows, const AttentionTiles& tiles, const KvLayer& kv,
                     float* parts);

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
void LaunchKeyScores(LaunchQueue& queue, const KeyScoresArgs& args, const DeviceTargets& targets,
                     const AttentionRows& rows, const KvLayer& kv);
// `summed` is scratch, [positions].
void LaunchPoolScores(LaunchQueue& queue, const PoolScoresArgs& args, float* summed);
// `forced` is args.forced on the device.
void LaunchTopRows(LaunchQueue& queue, const TopRowsArgs& args, const IndexRange* forced);

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

// Where it goes, for every row of logits.
struct SampleResults {
  TokenId* drawn = nullptr;  // null: only to the outcomes
  SampleOutcome* outcomes = nullptr;
  TokenLogprob* top = nullptr;  // [rows][max_top], best first
  int32_t max_top = 0;
};

// `scratch` has the shape of the logits and takes the adjusted ones.
void LaunchSample(LaunchQueue& queue, Matrix<const float> logits, const SampleTask* tasks,
                  const ColumnTokens& columns, Matrix<float> scratch, const SampleResults& results);

}  // namespace skim::cuda
