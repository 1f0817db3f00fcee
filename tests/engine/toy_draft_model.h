// Draft models of a test's own making.
#pragma once

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "base/bf16.h"
#include "tests/engine/golden.h"
#include "tests/engine/write_safetensors.h"
#include "tests/temp_dir.h"

namespace skim {

class ToyDraftModel {
 public:
  const std::string& path() const { return dir_.path(); }

  // The first layers of a golden model, with its embedding and head: right now and then.
  void TakeFirstLayers(const std::string& golden, int32_t layers) {
    nlohmann::json config = ConfigOf(golden);
    config["num_hidden_layers"] = layers;
    dir_.Write("config.json", config.dump());
    for (const std::string file : {"/model.safetensors", "/tokenizer.json"}) {
      std::filesystem::copy(GoldenPath(golden) + file, path() + file);
    }
  }

  nlohmann::json Tokenizer() const { return Read(path() + "/tokenizer.json"); }
  void SetTokenizer(const nlohmann::json& json) { dir_.Write("tokenizer.json", json.dump()); }

  struct Shape {
    int32_t layers = 5;
    int32_t hidden = 48;
    int32_t intermediate = 70;
    int32_t heads = 3;
    int32_t kv_heads = 1;
    int32_t head_dim = 16;
    int32_t vocabulary = 0;
    int32_t context = 0;
  };
  // Noise in the shape of another Llama.
  void FillWithNoise(const std::string& golden, const Shape& shape, uint32_t seed) {
    nlohmann::json config = ConfigOf(golden);
    config["num_hidden_layers"] = shape.layers;
    config["hidden_size"] = shape.hidden;
    config["intermediate_size"] = shape.intermediate;
    config["num_attention_heads"] = shape.heads;
    config["num_key_value_heads"] = shape.kv_heads;
    config["head_dim"] = shape.head_dim;
    config["vocab_size"] = shape.vocabulary;
    config["max_position_embeddings"] = shape.context;
    dir_.Write("config.json", config.dump());
    std::mt19937 rng(seed);
    std::map<std::string, TestTensor> tensors;
    const auto matrix = [&](const std::string& name, int64_t rows, int64_t cols) {
      std::normal_distribution<float> values(0, 1 / std::sqrt(static_cast<float>(cols)));
      std::vector<Bf16> numbers;
      for (int64_t i = 0; i < rows * cols; ++i) numbers.push_back(ToBf16(values(rng)));
      tensors[name] = TestTensor::Of("BF16", {rows, cols}, numbers);
    };
    const auto norm = [&](const std::string& name) {
      const std::vector<Bf16> ones(static_cast<size_t>(shape.hidden), ToBf16(1));
      tensors[name] = TestTensor::Of("BF16", {shape.hidden}, ones);
    };
    const int64_t q = int64_t{shape.heads} * shape.head_dim;
    const int64_t kv = int64_t{shape.kv_heads} * shape.head_dim;
    matrix("model.embed_tokens.weight", shape.vocabulary, shape.hidden);
    norm("model.norm.weight");
    for (int32_t layer = 0; layer < shape.layers; ++layer) {
      const std::string base = "model.layers." + std::to_string(layer) + ".";
      norm(base + "input_layernorm.weight");
      norm(base + "post_attention_layernorm.weight");
      matrix(base + "self_attn.q_proj.weight", q, shape.hidden);
      matrix(base + "self_attn.k_proj.weight", kv, shape.hidden);
      matrix(base + "self_attn.v_proj.weight", kv, shape.hidden);
      matrix(base + "self_attn.o_proj.weight", shape.hidden, q);
      matrix(base + "mlp.gate_proj.weight", shape.intermediate, shape.hidden);
      matrix(base + "mlp.up_proj.weight", shape.intermediate, shape.hidden);
      matrix(base + "mlp.down_proj.weight", shape.hidden, shape.intermediate);
    }
    dir_.Write("model.safetensors", SafetensorsContent(tensors));
  }

 private:
  static nlohmann::json Read(const std::string& path) {
    std::ifstream file(path);
    return nlohmann::json::parse(file);
  }
  static nlohmann::json ConfigOf(const std::string& golden) {
    return Read(GoldenPath(golden) + "/config.json");
  }

  TempDir dir_;
};

}  // namespace skim
