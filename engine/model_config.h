// The shape of a model, from config.json and generation_config.json of a Hugging Face
// directory. What this engine cannot compute exactly is refused here, by the field's name.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/types.h"
#include "engine/quantization_config.h"

namespace skim {

// How rotary frequencies are stretched for long contexts.
struct RopeScaling {
  enum class Kind { kNone, kLinear, kLlama3 };
  Kind kind = Kind::kNone;
  double factor = 1;
  // Llama 3 only: wavelengths above original/low are divided by factor, below
  // original/high kept, in between interpolated.
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  int64_t original_max_positions = 0;
};

struct ModelConfig {
  std::string model_type;  // llama | mistral | qwen2 | qwen3
  int32_t layers = 0;
  int32_t hidden_size = 0;
  int32_t intermediate_size = 0;
  int32_t heads = 0;
  int32_t kv_heads = 0;  // divides heads
  int32_t head_dim = 0;  // even; not always hidden_size / heads
  int32_t rotary_dim = 0;
  int32_t vocab_size = 0;
  int32_t max_positions = 0;
  float norm_eps = 0;
  double rope_theta = 0;
  RopeScaling rope_scaling;
  bool tied_embeddings = false;
  bool qkv_bias = false;
  bool output_bias = false;  // of the attention's output projection
  bool mlp_bias = false;
  bool qk_norm = false;      // RMS norm of every query and key head (Qwen3)

  std::optional<QuantizationConfig> quantization;  // matrices that come quantised

  // Generation defaults; negative where the files say nothing.
  std::vector<TokenId> eos_tokens;
  float default_temperature = -1;
  float default_top_p = -1;
  int32_t default_top_k = -1;

  int32_t q_width() const { return heads * head_dim; }
  int32_t kv_width() const { return kv_heads * head_dim; }
  int32_t qkv_width() const { return q_width() + 2 * kv_width(); }
};

// NOT_FOUND without config.json, INVALID_ARGUMENT for values that make no model,
// UNIMPLEMENTED for features outside this engine (sliding windows, other activations,
// unknown rope types, other quantisations than QuantizationConfig, other architectures).
absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& directory);

}  // namespace skim
