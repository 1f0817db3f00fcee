#include "engine/model_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "engine/rope.h"
#include "engine/segments.h"
#include "tests/temp_dir.h"

namespace skim {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

json Base() {
  return json::parse(R"({"model_type":"llama","hidden_size":64,"intermediate_size":128,
    "num_hidden_layers":3,"num_attention_heads":4,"num_key_value_heads":2,"vocab_size":320,
    "max_position_embeddings":256,"rms_norm_eps":1e-5,"rope_theta":10000.0,"hidden_act":"silu",
    "eos_token_id":2})");
}

absl::StatusOr<ModelConfig> Load(const json& config, const std::string& generation = "") {
  TempDir dir;
  dir.Write("config.json", config.dump());
  if (!generation.empty()) dir.Write("generation_config.json", generation);
  return LoadModelConfig(dir.path());
}

TEST(ModelConfig, ReadsALlama) {
  auto config = Load(Base());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->head_dim, 16);
  EXPECT_EQ(config->qkv_width(), 64 + 2 * 32);
  EXPECT_EQ(config->eos_tokens, std::vector<TokenId>{2});
  EXPECT_FALSE(config->qkv_bias);
}

TEST(ModelConfig, HeadDimIsNotAlwaysHiddenOverHeads) {
  json config = Base();
  config["head_dim"] = 32;
  EXPECT_EQ(Load(config)->q_width(), 128);
}

TEST(ModelConfig, QwenHasItsBiasesAndNormsWhateverTheFileSays) {
  json config = Base();
  config["model_type"] = "qwen2";
  config["use_sliding_window"] = false;
  config["sliding_window"] = 128;
  auto qwen2 = Load(config);
  ASSERT_TRUE(qwen2.ok()) << qwen2.status();
  EXPECT_TRUE(qwen2->qkv_bias);
  EXPECT_FALSE(qwen2->output_bias);
  config["model_type"] = "qwen3";
  EXPECT_TRUE(Load(config)->qk_norm);
}

TEST(ModelConfig, EndTokensComeFromBothFilesOnce) {
  auto config = Load(Base(), R"({"eos_token_id":[2,7],"temperature":0.6,"top_p":0.9,"top_k":20})");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->eos_tokens, (std::vector<TokenId>{2, 7}));
  EXPECT_FLOAT_EQ(config->default_temperature, 0.6f);
  EXPECT_EQ(config->default_top_k, 20);
}

TEST(ModelConfig, RefusesWhatItCannotComputeNamingTheField) {
  const std::pair<const char*, json> cases[] = {
      {"model_type", "gpt2"},
      {"hidden_act", "gelu"},
      {"num_attention_heads", 0},
      {"num_attention_heads", -4},
      {"num_attention_heads", 1e30},
      {"num_hidden_layers", 0},
      {"num_hidden_layers", 3000000000},
      {"hidden_size", "64"},
      {"hidden_size", 66},
      {"head_dim", 15},
      {"head_dim", 100000},
      {"num_key_value_heads", 3},
      {"vocab_size", 0},
      {"max_position_embeddings", 0},
      {"rope_theta", -1},
      {"rope_theta", 0},
      {"rms_norm_eps", -1},
      {"eos_token_id", 320},
      {"eos_token_id", -1},
      {"eos_token_id", "2"},
      {"rope_scaling", "yarn"},
      {"rope_scaling", json{{"rope_type", "yarn"}, {"factor", 2}}},
      {"rope_scaling", json{{"type", "linear"}, {"factor", 0}}},
      {"quantization_config", json{{"bits", 4}}},
      {"layer_types", json::array({"full_attention", "sliding_attention"})},
      {"tie_word_embeddings", 1},
  };
  for (const auto& [field, value] : cases) {
    json config = Base();
    config[field] = value;
    auto loaded = Load(config);
    ASSERT_FALSE(loaded.ok()) << field << " " << value;
    EXPECT_THAT(std::string(loaded.status().message()), HasSubstr(field)) << value;
  }
  json mistral = Base();
  mistral["model_type"] = "mistral";
  mistral["sliding_window"] = 128;
  EXPECT_THAT(std::string(Load(mistral).status().message()), HasSubstr("sliding_window"));
  mistral["sliding_window"] = nullptr;
  EXPECT_TRUE(Load(mistral).ok());
}

TEST(ModelConfig, EveryFieldMayBeMissingWithoutACrash) {
  const json base = Base();
  for (const auto& [key, value] : base.items()) {
    json config = Base();
    config.erase(key);
    (void)Load(config);
    for (const json& odd : {json(nullptr), json(-1), json("x"), json::array(), json(true), json(1e300)}) {
      config[key] = odd;
      (void)Load(config);
    }
  }
}

TEST(ModelConfig, MissingFileIsNamed) {
  TempDir dir;
  EXPECT_THAT(std::string(LoadModelConfig(dir.path()).status().message()), HasSubstr("config.json"));
}

TEST(Rope, Llama3KeepsShortWavesAndStretchesLongOnes) {
  json config = Base();
  config["head_dim"] = 128;
  config["rope_theta"] = 500000.0;
  auto plain = RopeFrequencies(*Load(config));
  config["rope_scaling"] = {{"rope_type", "llama3"}, {"factor", 32.0}, {"low_freq_factor", 1.0},
                            {"high_freq_factor", 4.0}, {"original_max_position_embeddings", 8192}};
  auto scaled = RopeFrequencies(*Load(config));
  EXPECT_EQ(scaled.front(), plain.front());
  EXPECT_DOUBLE_EQ(scaled.back(), plain.back() / 32);
  for (size_t i = 0; i < plain.size(); ++i) {
    EXPECT_LE(scaled[i], plain[i]);
    EXPECT_GE(scaled[i], plain[i] / 32);
  }
}

TEST(Rope, NewConfigsKeepThetaAndScalingInRopeParameters) {
  json config = Base();
  config.erase("rope_theta");
  config["rope_parameters"] = {{"rope_type", "linear"}, {"factor", 4.0}, {"rope_theta", 5000.0}};
  auto loaded = Load(config);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_DOUBLE_EQ(RopeFrequencies(*loaded)[1], std::pow(5000.0, -2.0 / 16) / 4);
}

TEST(LayerSegments, AUnitDividesEverySegment) {
  const int32_t boundaries[] = {18, 24};
  const LayerSegments segments(30, boundaries);
  EXPECT_EQ(segments.unit_layers(), 6);
  EXPECT_EQ(segments.units(), (std::vector<int32_t>{3, 1, 1}));
  EXPECT_EQ(segments.SegmentOf(17), 0);
  EXPECT_EQ(segments.SegmentOf(18), 1);
  EXPECT_EQ(segments.SegmentOf(29), 2);
  EXPECT_EQ(LayerSegments(30, {}).unit_layers(), 30);
}

}  // namespace
}  // namespace skim
