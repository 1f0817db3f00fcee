// What serving costs at least, so that a measured speed can be given as a share of what the
// machine could do. A share is the time the roofs alone would take over the time it took.
#pragma once

#include <cstdint>
#include <span>

#include "skim/v1/inference.pb.h"

namespace skim {

struct Roofs {
  double bf16_flops = 0;  // per second
  double int8_ops = 0;    // per second
  double read_bytes_per_s = 0;
};

// A stretch of layers, and what of a prompt runs it.
struct LayerTokens {
  double layers = 0;
  double tokens = 0;
  double seen = 0;              // tokens whose keys are read there; 0: those that run it
  double predicted_layers = 0;  // keys and values that are predicted in a layer, summed over layers
};

class ServeCost {
 public:
  // Of requests that ask for `weights`.
  ServeCost(const v1::GetModelResponse& model, v1::WeightFormat weights);

  // Of computing a prompt and its first token. With p weights outside the embedding, l layers of
  // width h with keys of width w and a vocabulary of v, of which stretch s has l_s layers that n_s
  // tokens run and m_s are seen in:
  //   products   sum of 2 p / l * l_s * n_s     two operations for each weight and token
  //   attention  sum of 2 h * l_s * n_s * m_s   scores and values, 4 h for n_s * m_s / 2 pairs
  //   head       2 v h                          one row
  //   scoring    2 h * n_s                      where fewer tokens go on, one row scores all
  //   predicted  4 h w                          each key and value, a product of its own
  // The embedding is a look-up. (For a model whose head is not tied to its embedding p counts
  // the head, a little too much.)
  double PrefillFlops(std::span<const LayerTokens> stretches) const {
    return ProductFlops(stretches) + FixedFlops(stretches);
  }

  // That one decode step reads whatever the number of streams: every weight once, of int4
  // scales and offsets too, and the head in int8 unless it is bf16. Keys and values come on top and
  // are left out.
  double StepBytes() const { return StepBytes(layers_); }
  // Of a draft that leaves before this layer.
  double StepBytes(double layers) const;

  // int8 and int4 multiply in 8 bits; the others, all attention and all predictions, in bf16.
  double PrefillSeconds(std::span<const LayerTokens> stretches, const Roofs& roofs) const;
  // All tokens at full depth.
  double PrefillSeconds(double prompt_tokens, const Roofs& roofs) const;
  double StepSeconds(const Roofs& roofs) const;

 private:
  double ProductFlops(std::span<const LayerTokens> stretches) const;
  // That are the same in all formats.
  double FixedFlops(std::span<const LayerTokens> stretches) const;

  double parameters_;
  double embedding_parameters_;
  double layers_;
  double hidden_size_;
  double kv_size_;
  v1::WeightFormat weights_;
};

}  // namespace skim
