#include "engine/model_config.h"

#include <algorithm>
#include <array>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "engine/json_file.h"

namespace skim {
namespace {

using nlohmann::json;

// Bounds that no real model exceeds; they keep products of two of them inside int64.
constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxWidth = 1 << 20;
constexpr int64_t kMaxHeads = 1024;
constexpr int64_t kMaxHeadDim = 256;
constexpr int64_t kMaxVocab = 1 << 22;
constexpr int64_t kMaxPositions = 1 << 24;
constexpr int64_t kMaxConfigBytes = 1 << 20;

absl::Status Unsupported(const std::string& file, const std::string& what) {
  return absl::UnimplementedError(absl::StrCat(file, ": ", what));
}

absl::Status ReadRopeScaling(const json& object, const std::string& file, ModelConfig* config) {
  const JsonFields fields(object, file + ": rope_scaling");
  const char* type_key = fields.Has("rope_type") ? "rope_type" : "type";
  SKIM_ASSIGN_OR_RETURN(std::string type, fields.String(type_key, "default"));
  RopeScaling& scaling = config->rope_scaling;
  if (type == "default") return absl::OkStatus();
  if (type != "linear" && type != "llama3") {
    return Unsupported(file, absl::StrCat("rope_scaling type \"", type,
                                          "\" is not supported (default, linear and llama3 are)"));
  }
  SKIM_ASSIGN_OR_RETURN(scaling.factor, fields.Number("factor", {}, 1, 1e6));
  if (type == "linear") {
    scaling.kind = RopeScaling::Kind::kLinear;
    return absl::OkStatus();
  }
  scaling.kind = RopeScaling::Kind::kLlama3;
  SKIM_ASSIGN_OR_RETURN(scaling.low_freq_factor, fields.Number("low_freq_factor", {}, 1e-3, 1e6));
  SKIM_ASSIGN_OR_RETURN(scaling.high_freq_factor, fields.Number("high_freq_factor", {}, 1e-3, 1e6));
  SKIM_ASSIGN_OR_RETURN(scaling.original_max_positions,
                        fields.Int("original_max_position_embeddings", {}, 1, kMaxPositions));
  if (scaling.high_freq_factor <= scaling.low_freq_factor) {
    return fields.Error("high_freq_factor", "must exceed low_freq_factor");
  }
  return absl::OkStatus();
}

// Older configs have rope_theta and rope_scaling, newer ones rope_parameters for both.
absl::Status ReadRope(const JsonFields& fields, const std::string& file, ModelConfig* config) {
  const json* parameters = fields.Get("rope_parameters");
  if (parameters && !parameters->is_object()) {
    return fields.Error("rope_parameters", "is not an object");
  }
  if (parameters && parameters->contains("rope_theta")) {
    const JsonFields nested(*parameters, file + ": rope_parameters");
    SKIM_ASSIGN_OR_RETURN(config->rope_theta, nested.Number("rope_theta", {}, 1, 1e12));
  } else {
    SKIM_ASSIGN_OR_RETURN(config->rope_theta, fields.Number("rope_theta", 10000.0, 1, 1e12));
  }
  SKIM_ASSIGN_OR_RETURN(double partial, fields.Number("partial_rotary_factor", 1.0, 1e-3, 1));
  config->rotary_dim = static_cast<int32_t>(config->head_dim * partial) / 2 * 2;
  if (config->rotary_dim == 0) return fields.Error("partial_rotary_factor", "leaves nothing");
  const json* scaling = parameters ? parameters : fields.Get("rope_scaling");
  if (!scaling) return absl::OkStatus();
  if (!scaling->is_object()) return fields.Error("rope_scaling", "is not an object");
  return ReadRopeScaling(*scaling, file, config);
}

absl::Status RefuseSlidingWindow(const JsonFields& fields, const std::string& file,
                                 const ModelConfig& config) {
  if (const json* types = fields.Get("layer_types"); types && types->is_array()) {
    for (const json& type : *types) {
      if (type != "full_attention") {
        return Unsupported(file, "layer_types other than full_attention are not supported");
      }
    }
  }
  // Qwen configs carry a window that is off; Mistral's is on where it is given.
  SKIM_ASSIGN_OR_RETURN(bool used,
                        fields.Bool("use_sliding_window", config.model_type == "mistral"));
  if (!used) return absl::OkStatus();
  SKIM_ASSIGN_OR_RETURN(int64_t window, fields.Int("sliding_window", kMaxPositions, 1, kMaxPositions));
  if (window < config.max_positions) {
    return Unsupported(file, absl::StrCat("sliding_window ", window, " is not supported"));
  }
  return absl::OkStatus();
}

absl::Status ReadEos(const JsonFields& fields, ModelConfig* config) {
  const json* eos = fields.Get("eos_token_id");
  if (!eos) return absl::OkStatus();
  const json list = eos->is_array() ? *eos : json::array({*eos});
  if (list.size() > 64) return fields.Error("eos_token_id", "has more than 64 entries");
  for (const json& id : list) {
    if (!id.is_number_integer() || id < 0 || id >= config->vocab_size) {
      return fields.Error("eos_token_id", "must be ids in the vocabulary");
    }
    const TokenId token = id.get<TokenId>();
    if (std::find(config->eos_tokens.begin(), config->eos_tokens.end(), token) ==
        config->eos_tokens.end()) {
      config->eos_tokens.push_back(token);
    }
  }
  return absl::OkStatus();
}

absl::Status ReadGenerationConfig(const std::string& path, ModelConfig* config) {
  absl::StatusOr<json> object = ReadJsonObject(path, kMaxConfigBytes);
  if (absl::IsNotFound(object.status())) return absl::OkStatus();
  SKIM_RETURN_IF_ERROR(object.status());
  const JsonFields fields(*object, path);
  SKIM_RETURN_IF_ERROR(ReadEos(fields, config));
  SKIM_ASSIGN_OR_RETURN(double temperature, fields.Number("temperature", -1.0, -1, 100));
  SKIM_ASSIGN_OR_RETURN(double top_p, fields.Number("top_p", -1.0, -1, 1));
  SKIM_ASSIGN_OR_RETURN(int64_t top_k, fields.Int("top_k", -1, -1, kMaxVocab));
  config->default_temperature = static_cast<float>(temperature);
  config->default_top_p = static_cast<float>(top_p);
  config->default_top_k = static_cast<int32_t>(top_k);
  return absl::OkStatus();
}

absl::Status ReadShape(const JsonFields& fields, ModelConfig* config) {
  auto read = [&](const char* key, std::optional<int64_t> fallback, int64_t high,
                  int32_t* out) -> absl::Status {
    SKIM_ASSIGN_OR_RETURN(int64_t value, fields.Int(key, fallback, 1, high));
    *out = static_cast<int32_t>(value);
    return absl::OkStatus();
  };
  SKIM_RETURN_IF_ERROR(read("num_hidden_layers", {}, kMaxLayers, &config->layers));
  SKIM_RETURN_IF_ERROR(read("hidden_size", {}, kMaxWidth, &config->hidden_size));
  SKIM_RETURN_IF_ERROR(read("intermediate_size", {}, kMaxWidth, &config->intermediate_size));
  SKIM_RETURN_IF_ERROR(read("num_attention_heads", {}, kMaxHeads, &config->heads));
  SKIM_RETURN_IF_ERROR(read("num_key_value_heads", config->heads, kMaxHeads, &config->kv_heads));
  SKIM_RETURN_IF_ERROR(read("vocab_size", {}, kMaxVocab, &config->vocab_size));
  SKIM_RETURN_IF_ERROR(read("max_position_embeddings", {}, kMaxPositions, &config->max_positions));
  if (!fields.Has("head_dim") && config->hidden_size % config->heads != 0) {
    return fields.Error("hidden_size", "is no multiple of num_attention_heads and head_dim is missing");
  }
  SKIM_RETURN_IF_ERROR(read("head_dim", std::max(1, config->hidden_size / config->heads),
                            kMaxHeadDim, &config->head_dim));
  if (config->heads % config->kv_heads != 0) {
    return fields.Error("num_key_value_heads", "does not divide num_attention_heads");
  }
  if (config->head_dim % 2 != 0) return fields.Error("head_dim", "is odd");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& directory) {
  const std::string path = directory + "/config.json";
  SKIM_ASSIGN_OR_RETURN(json object, ReadJsonObject(path, kMaxConfigBytes));
  const JsonFields fields(object, path);

  ModelConfig config;
  SKIM_ASSIGN_OR_RETURN(config.model_type, fields.String("model_type", {}));
  constexpr std::array kTypes = {"llama", "mistral", "qwen2", "qwen3"};
  if (std::find(kTypes.begin(), kTypes.end(), config.model_type) == kTypes.end()) {
    return Unsupported(path, absl::StrCat("model_type \"", config.model_type,
                                          "\" is not supported (llama, mistral, qwen2, qwen3 are)"));
  }
  if (const json* quantization = fields.Get("quantization_config")) {
    SKIM_ASSIGN_OR_RETURN(config.quantization, ReadQuantizationConfig(*quantization, path));
  }
  SKIM_RETURN_IF_ERROR(ReadShape(fields, &config));
  SKIM_ASSIGN_OR_RETURN(double eps, fields.Number("rms_norm_eps", 1e-6, 0, 1));
  config.norm_eps = static_cast<float>(eps);
  SKIM_ASSIGN_OR_RETURN(std::string activation, fields.String("hidden_act", "silu"));
  if (activation != "silu") {
    return Unsupported(path, absl::StrCat("hidden_act \"", activation, "\" is not supported"));
  }
  SKIM_ASSIGN_OR_RETURN(config.tied_embeddings, fields.Bool("tie_word_embeddings", false));
  SKIM_ASSIGN_OR_RETURN(const bool attention_bias, fields.Bool("attention_bias", false));
  // Qwen2 has biases on q, k and v alone, whatever its config says.
  config.qkv_bias = attention_bias || config.model_type == "qwen2";
  config.output_bias = attention_bias && config.model_type != "qwen2";
  SKIM_ASSIGN_OR_RETURN(config.mlp_bias, fields.Bool("mlp_bias", false));
  config.qk_norm = config.model_type == "qwen3";
  SKIM_RETURN_IF_ERROR(ReadRope(fields, path, &config));
  SKIM_RETURN_IF_ERROR(RefuseSlidingWindow(fields, path, config));
  SKIM_RETURN_IF_ERROR(ReadEos(fields, &config));
  SKIM_RETURN_IF_ERROR(ReadGenerationConfig(directory + "/generation_config.json", &config));
  return config;
}

}  // namespace skim
