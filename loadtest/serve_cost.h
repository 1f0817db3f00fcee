// What serving costs at least, so that a measured speed can be given as a share of what the
// machine could do. A share is the time the roofs alone would take over the time it took.
#pragma once

#include <cstdint>

#include "skim/v1/inference.pb.h"

namespace skim {

struct Roofs {
  double bf16_flops = 0;  // per second
  double int8_ops = 0;    // per second
  double read_bytes_per_s = 0;
};

class ServeCost {
 public:
  // Of requests that ask for `weights`.
  ServeCost(const v1::GetModelResponse& model, v1::WeightFormat weights);

  // Of computing the prompt and its first token: two operations for each weight that meets a
  // token, and the attention of each token to those before it. The embedding is a look-up and
  // the head sees one row, so neither counts. (For a model whose head is not tied to its
  // embedding this counts the head, a little too much.)
  double PrefillFlops(double prompt_tokens) const {
    return ProductFlops(prompt_tokens) + AttentionFlops(prompt_tokens);
  }

  // That one decode step reads whatever the number of streams: every weight once, of int4
  // scales and offsets too, and the head in int8 unless it is bf16. Keys and values come on top and
  // are left out.
  double StepBytes() const;

  // int8 and int4 multiply in 8 bits; the others, and all attention, in bf16.
  double PrefillSeconds(double prompt_tokens, const Roofs& roofs) const;
  double StepSeconds(const Roofs& roofs) const;

 private:
  double ProductFlops(double prompt_tokens) const;
  double AttentionFlops(double prompt_tokens) const;

  double parameters_;
  double embedding_parameters_;
  double layers_;
  double hidden_size_;
  v1::WeightFormat weights_;
};

}  // namespace skim
