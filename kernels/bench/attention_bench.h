// Attention at model shapes as shares of the machine's roofs.
#pragma once

#include <functional>
#include <string>
#include <vector>

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

// `seconds` times a piece of work.
std::vector<AttentionShare> MeasureAttention(
    ThreadPool& pool, Isa isa, double flops, double bytes_per_s,
    const std::function<double(const std::function<void()>&)>& seconds);

}  // namespace skim
