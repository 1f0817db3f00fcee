// The one border to a backend: the arithmetic of a decoder-only transformer on borrowed
// views. Implementations: kernels/cpu, kernels/cuda.
//
// Contract
// - Every call only enqueues; operands must stay alive and unchanged until Wait(), which
//   returns the first failure. (The CPU backend happens to finish inside the call.)
// - Calls run in order. One thread at a time uses an Ops object: the serving loop.
// - All shapes are known on the host. Index arrays (`int32_t*`) are device memory.
// - G1: what an op writes for a row depends on that row (and the K/V it attends to) only,
//   never on the other rows, the tiling or the number of threads. Bit for bit on the CPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/bf16.h"
#include "base/check.h"
#include "base/types.h"
#include "kernels/kv_layout.h"
#include "kernels/matrix.h"
#include "kernels/sampling.h"
#include "kernels/weight.h"

namespace skim {

// Owns backend memory; released through the Ops that made it, which must outlive it.
class Buffer {
 public:
  virtual ~Buffer() = default;
  virtual std::byte* data() const = 0;  // device address, 64-byte aligned, zeroed at birth
  virtual size_t size() const = 0;
  template <typename T>
  T* As() const {
    return reinterpret_cast<T*>(data());
  }
};

// The rows that run a layer, and where the K/V they see lies. Rows of one sequence are
// consecutive and in ascending position.
struct SequenceRows {
  int32_t row_begin = 0;
  int32_t row_count = 0;
  int32_t block_begin = 0;  // its first entry in AttentionRows::blocks
  int32_t slots = 0;        // KV slots in use, counting those written by these rows
  // Its first entry in AttentionRows::slot_positions; kInOrder: slot i holds position i.
  static constexpr int64_t kInOrder = -1;
  int64_t positions_begin = kInOrder;
};

struct AttentionRows {
  std::span<const SequenceRows> sequences;  // host memory
  const int32_t* positions = nullptr;       // [rows] position of the row's token
  const int32_t* slots = nullptr;           // [rows] slot its K/V goes to
  const PageId* blocks = nullptr;           // page of every block of page_tokens slots
  // Original position of each slot of the sequences that are not in order; INT32_MAX hides a
  // slot from every row.
  const int32_t* slot_positions = nullptr;
};

struct KvLayer {
  std::byte* pool = nullptr;  // page p starts at pool + p * layout.PageBytes()
  KvLayout layout;
  int layer_in_unit = 0;
};

struct RopeWriteArgs {
  Matrix<const float> qkv;        // [rows, (heads + 2 kv_heads) * head_dim]
  int heads = 0;                  // query heads; 0: rows of keys and values alone
  const float* q_norm = nullptr;  // [head_dim] RMS-norm weights per head (Qwen3), or null
  const float* k_norm = nullptr;
  float norm_eps = 0;
  const float* rope_cos = nullptr;  // [max positions, rotary_dim / 2]
  const float* rope_sin = nullptr;
  int rotary_dim = 0;  // <= head_dim; halves are rotated against each other
  Matrix<Bf16> q;      // out [rows, heads * head_dim]
};

struct AttentionArgs {
  Matrix<const Bf16> q;  // [rows, heads * head_dim], rotated
  int heads = 0;         // multiple of kv_heads
  float scale = 0;       // usually 1 / sqrt(head_dim)
  Matrix<Bf16> out;      // [rows, heads * head_dim]
  float* lse = nullptr;  // optional out [rows, heads]: log-sum-exp of the scaled scores
};

// A sequence whose keys are scored at a layer, and by whom.
struct KeyScoreTarget {
  int32_t sequence = 0;     // index into AttentionRows::sequences
  int32_t window = 1;       // that many of its last rows score; >= 1, at most its rows
  float* scores = nullptr;  // out [arrays][slots of the sequence]
};

struct KeyScoresArgs {
  Matrix<const Bf16> q;        // what Attention read
  const float* lse = nullptr;  // what Attention wrote
  int heads = 0;
  float scale = 0;
  // Host memory. An array of scores for each of these heads; empty: one array, the mean over
  // all heads.
  std::span<const int32_t> scored_heads;
  std::span<const KeyScoreTarget> targets;  // host memory
};

struct PoolScoresArgs {
  const float* scores = nullptr;  // [arrays][slots]
  int arrays = 1;
  bool normalize = false;  // divide each array by its maximum first
  int64_t slots = 0;
  const int32_t* slot_positions = nullptr;  // [slots], INT32_MAX: left out; null: slot i holds i
  int radius = 0;                           // of the maximum, in original positions
  int64_t positions = 0;                    // all positions are below
  float* pooled = nullptr;                  // out [positions], -inf where no slot is
};

struct TopRowsArgs {
  const float* scores = nullptr;  // [rows]; NaN counts as -inf
  int64_t rows = 0;
  const uint8_t* allowed = nullptr;    // [rows], 0: never taken; null: all are
  std::span<const IndexRange> forced;  // host memory; taken before any other, if allowed
  int64_t count = 0;                   // <= the allowed rows
  int32_t* out = nullptr;              // [count] rows, ascending
};

enum class WeightShape : uint8_t {
  kPlain,
  // Rows [0, n/2) are the gate, [n/2, n) the up projection; packed so that LinearSwiGlu
  // finds both halves of a column together.
  kGateUp,
};

class Ops {
 public:
  virtual ~Ops() = default;

  // Called by the thread that will make all further calls, and starts no other thread: a
  // backend may tie it to a core.
  virtual void BindThread() {}

  virtual std::string Description() const = 0;  // "cpu avx512-bf16, 2 threads"

  // Whether calls return before they are done: then it pays not to wait where nothing has to be
  // known.
  virtual bool Asynchronous() const { return false; }

  // Whether RopeAndWriteKv and Attention can keep keys and values in this format.
  virtual bool HasKvFormat(KvFormat format) const { return true; }

  // What Allocate can still give, where buffers are not in the host's memory.
  virtual std::optional<size_t> FreeDeviceBytes() { return std::nullopt; }

  // 0 bytes are fine. RESOURCE_EXHAUSTED if there is not that much.
  virtual absl::StatusOr<std::unique_ptr<Buffer>> Allocate(size_t bytes) = 0;
  virtual void Upload(void* device, const void* host, size_t bytes) = 0;
  virtual void Download(void* host, const void* device, size_t bytes) = 0;

  // `weight` is host memory, row-major [out_features, in_features]; it is quantised to
  // `format` here. INVALID_ARGUMENT for NaN or infinite weights in a format other than bf16.
  virtual absl::StatusOr<std::unique_ptr<PackedWeight>> PackWeight(Matrix<const Bf16> weight,
                                                                   WeightFormat format,
                                                                   WeightShape shape) = 0;

  // The same for a matrix that comes quantised. INVALID_ARGUMENT for codes or scales that are
  // not finite.
  virtual absl::StatusOr<std::unique_ptr<PackedWeight>> PackQuantized(const QuantizedMatrix& weight,
                                                                      WeightShape shape) = 0;

  // What follows, until the next Wait(), is likely to be called again soon with the same operands
  // and the same shapes: a backend may put it off until then and keep what it makes of it. Results
  // are the same.
  virtual void ExpectRepeat() {}
  // How often something kept was used again.
  virtual int64_t Replays() const { return 0; }

  // y[r] = table[tokens[r]]. The table is packed as kPlain, [vocabulary, hidden]: a model
  // whose head is its embedding holds it once. A pending token is drawn[PendingDraw(token)], device
  // memory that Sample wrote; where nothing could be drawn, y[r] is any row of the table.
  virtual void Embed(const PackedWeight& table, const TokenId* tokens, const TokenId* drawn,
                     Matrix<float> y) = 0;
  // y = x / sqrt(mean(x^2) + eps) * weight
  virtual void RmsNorm(Matrix<const float> x, const float* weight, float eps, Matrix<Bf16> y) = 0;
  // y = x W^T + bias, or y += when `accumulate` (the residual stream). bias may be null. The
  // format of the weight decides the arithmetic; a row's result depends on that row only.
  virtual void Linear(Matrix<const Bf16> x, const PackedWeight& weight, const float* bias,
                      bool accumulate, Matrix<float> y) = 0;
  // y = silu(x Wgate^T + bgate) * (x Wup^T + bup); weight packed as kGateUp, bias [2 * cols(y)].
  virtual void LinearSwiGlu(Matrix<const Bf16> x, const PackedWeight& weight, const float* bias,
                            Matrix<Bf16> y) = 0;
  // Products with a few rows of a large matrix, other ones for each row of x:
  // y[r][c] = x[r] . table[index[r * cols(y) + c]] + bias, in float32; -inf where the index is
  // negative. The table is bf16, packed as kPlain.
  virtual void LinearAt(Matrix<const Bf16> x, const PackedWeight& table, const int32_t* index,
                        float bias, Matrix<float> y) = 0;
  // Normalises (optional), rotates and rounds q; rotates k and writes k, v into their slots in
  // the format of the layout.
  virtual void RopeAndWriteKv(const RopeWriteArgs& args, const AttentionRows& rows,
                              const KvLayer& kv) = 0;
  // Causal by position: a row sees the slots whose position is <= its own.
  virtual void Attention(const AttentionArgs& args, const AttentionRows& rows,
                         const KvLayer& kv) = 0;
  // Whether the three calls below are there; who calls them asks first.
  virtual bool ScoresKeys() const { return false; }
  // What the last rows of a sequence look at: the mean over its window's rows (and over heads)
  // of the softmax probability exp(scale q.k - lse) of each key (LazyLLM, equation 1). One
  // more read of the layer's keys for a few rows; nothing of size rows x keys exists.
  virtual void KeyScores(const KeyScoresArgs& args, const AttentionRows& rows, const KvLayer& kv) {
    SKIM_CHECK(false);
  }
  // pooled[p] = the largest of the summed scores of the tokens at positions [p - radius,
  // p + radius] that have a slot.
  virtual void PoolScores(const PoolScoresArgs& args) { SKIM_CHECK(false); }
  // The `count` best rows; of equal scores the lower row goes first.
  virtual void TopRows(const TopRowsArgs& args) { SKIM_CHECK(false); }
  // y[i] = x[index[i]]  /  y[index[i]] = x[i]
  virtual void GatherRows(Matrix<const float> x, const int32_t* index, Matrix<float> y) = 0;
  virtual void ScatterRows(Matrix<const float> x, const int32_t* index, Matrix<float> y) = 0;

  // One result per row, in host memory.
  virtual void Sample(const SampleArgs& args, std::span<SampledToken> results) = 0;

  // Blocks until everything enqueued is done.
  virtual absl::Status Wait() = 0;
};

}  // namespace skim
