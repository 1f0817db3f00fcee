#include "tests/gpu/random_model.h"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "base/bf16.h"

namespace skim {
namespace {

struct Tensor {
  std::string name;
  std::vector<int64_t> shape;
  bool norm = false;

  int64_t size() const { return shape.size() == 1 ? shape[0] : shape[0] * shape[1]; }
};

std::vector<Tensor> Tensors(const RandomShape& s) {
  const int64_t q = int64_t{s.heads} * s.head_dim, kv = int64_t{s.kv_heads} * s.head_dim;
  std::vector<Tensor> tensors = {{"model.embed_tokens.weight", {s.vocabulary, s.hidden}},
                                 {"model.norm.weight", {s.hidden}, true}};
  for (int32_t layer = 0; layer < s.layers; ++layer) {
    const std::string at = "model.layers." + std::to_string(layer) + ".";
    tensors.push_back({at + "input_layernorm.weight", {s.hidden}, true});
    tensors.push_back({at + "post_attention_layernorm.weight", {s.hidden}, true});
    tensors.push_back({at + "self_attn.q_proj.weight", {q, s.hidden}});
    tensors.push_back({at + "self_attn.k_proj.weight", {kv, s.hidden}});
    tensors.push_back({at + "self_attn.v_proj.weight", {kv, s.hidden}});
    tensors.push_back({at + "self_attn.o_proj.weight", {s.hidden, q}});
    tensors.push_back({at + "mlp.gate_proj.weight", {s.intermediate, s.hidden}});
    tensors.push_back({at + "mlp.up_proj.weight", {s.intermediate, s.hidden}});
    tensors.push_back({at + "mlp.down_proj.weight", {s.hidden, s.intermediate}});
  }
  return tensors;
}

nlohmann::json Config(const RandomShape& s) {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"model_type", "llama"},
          {"hidden_act", "silu"},
          {"num_hidden_layers", s.layers},
          {"hidden_size", s.hidden},
          {"intermediate_size", s.intermediate},
          {"num_attention_heads", s.heads},
          {"num_key_value_heads", s.kv_heads},
          {"head_dim", s.head_dim},
          {"vocab_size", s.vocabulary},
          {"max_position_embeddings", s.positions},
          {"rms_norm_eps", 1e-5},
          {"rope_theta", 5e5},
          {"tie_word_embeddings", true},
          {"eos_token_id", 0},
          {"torch_dtype", "bfloat16"}};
}

}  // namespace

absl::Status WriteRandomModel(const RandomShape& shape, const std::string& directory) {
  const std::vector<Tensor> tensors = Tensors(shape);
  nlohmann::json header;
  int64_t end = 0;
  for (const Tensor& tensor : tensors) {
    const int64_t begin = std::exchange(end, end + 2 * tensor.size());
    header[tensor.name] = {
        {"dtype", "BF16"}, {"shape", tensor.shape}, {"data_offsets", {begin, end}}};
  }
  const std::string text = header.dump();
  const uint64_t length = text.size();
  std::ofstream config(directory + "/config.json");
  config << Config(shape).dump(2);
  std::ofstream file(directory + "/model.safetensors", std::ios::binary);
  file.write(reinterpret_cast<const char*>(&length), sizeof(length));
  file << text;
  uint64_t state = 1;
  std::vector<Bf16> row;
  for (const Tensor& tensor : tensors) {
    // Uniform, as large as trained weights are.
    constexpr float kScale = 0.035f / (1 << 23);
    row.resize(static_cast<size_t>(tensor.shape.back()));
    for (int64_t done = 0; done < tensor.size(); done += tensor.shape.back()) {
      for (Bf16& x : row) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        const auto drawn = static_cast<float>(static_cast<int32_t>(state >> 40) - (1 << 23));
        x = ToBf16(tensor.norm ? 1.0f : drawn * kScale);
      }
      file.write(reinterpret_cast<const char*>(row.data()),
                 static_cast<std::streamsize>(row.size() * sizeof(Bf16)));
    }
  }
  if (!config.flush() || !file.flush()) {
    return absl::UnavailableError("cannot write a model into " + directory);
  }
  return absl::OkStatus();
}

}  // namespace skim
