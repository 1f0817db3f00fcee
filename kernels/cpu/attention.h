// Attention over paged K/V: one arithmetic for prefill and decode.
//
// Per row and query head, in this order whatever the batch (G1):
//   score   s = dot(q, k) in the bf16 dot unit of the path, pairs along head_dim ascending
//   block   kAttentionBlock slots: running maximum, p = exp(s * scale - max) rounded to bf16,
//           the sum and P V both take the rounded p, fp32 accumulators rescaled per block
//   span    kAttentionSpan slots start from an empty state; spans are merged left to right
// Masked slots have p = 0 exactly, so a masked block or span leaves a row's bits alone: rows
// that share a tile may be shown more than they see. A span is what several threads can
// share of one long sequence; where they cut never shows in a result. Isa::kAmx runs the
// AVX-512 functions for any number of rows: a unit that rounded differently would have to
// serve them all.
#pragma once

#include <vector>

#include "kernels/cpu/attention_plan.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/ops.h"

namespace skim {

// Working memory of CpuAttention, owned by whoever owns the pool. It grows to the largest
// call and is then reused: no allocation in a steady state.
struct AttentionScratch {
  std::vector<PlanCut> cuts;  // where each thread begins

  float* Reserve(size_t floats);  // 64-byte aligned, contents undefined

 private:
  struct alignas(64) Line {
    float values[16];
  };
  std::vector<Line> lines_;
};

// head_dim <= 256, even. Slots at and beyond SequenceRows::slots never reach a result,
// whatever lies in the pages (kv_layout.h says who clears the odd partner). A row that sees
// no slot gets zeros and lse = -inf.
void CpuAttention(ThreadPool& pool, Isa isa, AttentionScratch& scratch, const AttentionArgs& args,
                  const AttentionRows& rows, const KvLayer& kv);

}  // namespace skim
