// Attention at model shapes as shares of the machine's roofs.
#pragma once

#include <string>
#include <vector>

#include "kernels/bench/roofs.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/kv_layout.h"

namespace skim {

struct AttentionShare {
  std::string name;  // attention_decode_share: of the read bandwidth; attention_prefill_share: of
                     // the bf16 peak, counting the products that the causal mask leaves
  double share;
  double rate;  // byte/s or flop/s
  KvFormat kv_format;
  int heads, kv_heads, head_dim, context;
};

// `flops` is the bf16 peak.
std::vector<AttentionShare> MeasureAttention(ThreadPool& pool, Isa isa, double flops,
                                             ReadProbe& probe);

}  // namespace skim
