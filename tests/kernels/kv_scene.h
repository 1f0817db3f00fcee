// Sequences in a paged K/V pool full of NaN, for tests of attention: pages in random order,
// an own writer (so that the layout has a second opinion), and a double-precision reference.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "kernels/cpu/isa.h"
#include "kernels/ops.h"

namespace skim {

struct KvShape {
  int heads = 1;
  int kv_heads = 1;
  int head_dim = 64;
  int page_tokens = 32;
};

// K, V and queries of a sequence by slot; slot i holds position positions[i].
struct KvSequence {
  std::vector<int32_t> positions;
  std::vector<std::vector<Bf16>> keys, values;  // [slot][kv_heads * head_dim]
  std::vector<std::vector<Bf16>> queries;       // [position][heads * head_dim]
  bool by_index = true;                         // slot i holds position i
};

KvSequence RandomSequence(uint32_t seed, const KvShape& shape, int tokens);
// The same tokens in shuffled slots.
KvSequence Shuffled(const KvSequence& sequence, uint32_t seed);

// Rows of one sequence to run: positions, ascending, when its first `slots` slots are in use.
struct KvWork {
  const KvSequence* sequence;
  std::vector<int32_t> positions;
  int slots;
};

struct AttentionResult {
  std::vector<Bf16> out;   // [heads * head_dim]
  std::vector<float> lse;  // [heads]
};

// Runs one step and returns a result per row, work after work. Only the slots in use are
// written; all else is NaN.
std::vector<AttentionResult> RunAttention(Isa isa, int threads, const KvShape& shape,
                                          const std::vector<KvWork>& work, uint32_t page_seed = 1);

struct AttentionReference {
  std::vector<double> out, magnitude;  // magnitude: sum of p |v|, what errors scale with
  std::vector<double> lse;
};
AttentionReference ReferenceAttention(const KvShape& shape, const KvWork& work, int row);

}  // namespace skim
