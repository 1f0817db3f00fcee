// Checkpoints whose matrices come quantised (compressed-tensors), made here from a golden one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <limits>

#include "base/fp8.h"
#include "engine/engine.h"
#include "kernels/cpu/isa.h"
#include "tests/engine/golden.h"
#include "tests/engine/harness.h"
#include "tests/engine/write_safetensors.h"
#include "tests/temp_dir.h"

namespace skim {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using Tensors = std::map<std::string, TestTensor>;

json ReadConfig(const std::string& directory) {
  std::ifstream file(directory + "/config.json");
  return json::parse(file);
}

// Every tensor of a golden checkpoint in float32.
Tensors ReadTensors(const std::string& directory) {
  const auto file = *SafetensorsFile::Open(directory + "/model.safetensors");
  Tensors tensors;
  for (const auto& [name, entry] : file.tensors()) {
    tensors[name] = TestTensor::Of("F32", entry.shape, *file.ReadFloat(name));
  }
  return tensors;
}

std::vector<float> FloatsOf(const TestTensor& tensor) {
  std::vector<float> values(tensor.bytes.size() / sizeof(float));
  std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
  return values;
}

float CodeValue(WeightFormat format, uint8_t code) {
  return format == WeightFormat::kFp8 ? ToFloat(Fp8{code})
                                      : static_cast<float>(static_cast<int8_t>(code));
}

uint8_t CodeOf(WeightFormat format, float value) {
  if (format == WeightFormat::kFp8) return ToFp8(value).bits;
  return static_cast<uint8_t>(static_cast<int8_t>(std::nearbyint(value)));
}

enum class Scales { kExact, kPowersOfTwo };

// Replaces matrix `name` by codes and scales: scales that put the largest weight of a row on
// the largest code, or the power of two above, so that code * scale is exact in bf16.
void Quantize(WeightFormat format, Scales scales, const std::string& name, Tensors* tensors) {
  TestTensor& matrix = tensors->at(name);
  const int64_t rows = matrix.shape[0], cols = matrix.shape[1];
  const std::vector<float> values = FloatsOf(matrix);
  std::vector<uint8_t> codes(values.size());
  std::vector<float> row_scales(rows);
  for (int64_t r = 0; r < rows; ++r) {
    float peak = 0;
    for (int64_t c = 0; c < cols; ++c) peak = std::max(peak, std::fabs(values[r * cols + c]));
    float scale = peak / (format == WeightFormat::kFp8 ? kFp8Max : 127);
    if (scales == Scales::kPowersOfTwo) scale = std::exp2(std::ceil(std::log2(scale)));
    row_scales[r] = scale;
    for (int64_t c = 0; c < cols; ++c) {
      codes[r * cols + c] = CodeOf(format, values[r * cols + c] / scale);
    }
  }
  matrix = TestTensor::Of(format == WeightFormat::kFp8 ? "F8_E4M3" : "I8", {rows, cols}, codes);
  (*tensors)[name + "_scale"] = TestTensor::Of("F32", {rows, 1}, row_scales);
}

// The same weights in floating point.
Tensors Dequantized(WeightFormat format, const Tensors& tensors) {
  Tensors out;
  for (const auto& [name, tensor] : tensors) {
    if (name.ends_with("_scale")) continue;
    if (!tensors.contains(name + "_scale")) {
      out[name] = tensor;
      continue;
    }
    const std::vector<float> scales = FloatsOf(tensors.at(name + "_scale"));
    std::vector<float> values;
    for (size_t i = 0; i < tensor.bytes.size(); ++i) {
      values.push_back(CodeValue(format, static_cast<uint8_t>(tensor.bytes[i])) *
                       scales[i / tensor.shape[1]]);
    }
    out[name] = TestTensor::Of("F32", tensor.shape, values);
  }
  return out;
}

json Scheme(WeightFormat format) {
  const bool fp8 = format == WeightFormat::kFp8;
  json weights = {{"num_bits", 8},         {"type", fp8 ? "float" : "int"},
                  {"strategy", "channel"}, {"symmetric", true},
                  {"dynamic", false},      {"group_size", nullptr}};
  json activations = weights;
  activations["strategy"] = "token";
  activations["dynamic"] = true;
  return {{"quant_method", "compressed-tensors"},
          {"format", fp8 ? "float-quantized" : "int-quantized"},
          {"quantization_status", "compressed"},
          {"config_groups",
           {{"group_0",
             {{"targets", {"Linear"}},
              {"weights", weights},
              {"input_activations", activations},
              {"output_activations", nullptr}}}}},
          {"ignore", {"lm_head"}},
          {"kv_cache_scheme", nullptr}};
}

bool IsLayerMatrix(const std::string& name) { return name.ends_with("_proj.weight"); }

class ReadyMade : public ::testing::Test {
 protected:
  // A golden model with the layers' matrices quantised.
  void Make(const std::string& golden, WeightFormat format, Scales scales = Scales::kExact) {
    config_ = ReadConfig(GoldenPath(golden));
    tensors_ = ReadTensors(GoldenPath(golden));
    config_["quantization_config"] = Scheme(format);
    std::vector<std::string> names;
    for (const auto& [name, tensor] : tensors_) {
      if (IsLayerMatrix(name)) names.push_back(name);
    }
    for (const std::string& name : names) Quantize(format, scales, name, &tensors_);
  }
  std::string Write() { return Write(dir_, config_, tensors_); }
  static std::string Write(const TempDir& dir, const json& config, const Tensors& tensors) {
    dir.Write("config.json", config.dump());
    dir.Write("model.safetensors", SafetensorsContent(tensors));
    return dir.path();
  }
  absl::StatusOr<std::unique_ptr<Engine>> LoadEngine(std::vector<WeightFormat> weights = {}) {
    EngineOptions options;
    options.model_dir = Write();
    options.backend.threads = 1;
    options.backend.pin_threads = false;
    options.weights = std::move(weights);
    return Engine::Load(options, {});
  }
  std::string Refusal(std::vector<WeightFormat> weights = {}) {
    const auto engine = LoadEngine(std::move(weights));
    return engine.ok() ? "it was accepted" : std::string(engine.status().message());
  }
  // Logits of every position of one prompt, one behind the other.
  static std::vector<float> Logits(const std::string& directory, WeightFormat format,
                                   const std::string& isa = "auto") {
    auto harness = EngineHarness::Load(directory, {.isa = isa, .formats = {format}});
    EXPECT_TRUE(harness.ok()) << harness.status();
    std::vector<TokenId> prompt;
    for (TokenId i = 0; i < 40; ++i) prompt.push_back((i * 37 + 11) % 250);
    HarnessSequence sequence = (*harness)->NewSequence(prompt);
    sequence.format = format;
    EXPECT_TRUE((*harness)->Generate(&sequence, 40, 0).ok());
    std::vector<float> logits;
    for (int32_t p = 0; p < 40; ++p) {
      const auto& row = (*harness)->Logits(sequence.id, p);
      logits.insert(logits.end(), row.begin(), row.end());
    }
    return logits;
  }

  TempDir dir_;
  json config_;
  Tensors tensors_;
};

double RelativeError(const std::vector<float>& got, const std::vector<float>& wanted) {
  EXPECT_EQ(got.size(), wanted.size());
  double error = 0, norm = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    error += std::pow(got[i] - wanted[i], 2);
    norm += std::pow(wanted[i], 2);
  }
  return std::sqrt(error / norm);
}

// The codes' exact values in bf16: what is left is the order of sums for fp8, and the rounding
// of activations to 8 bits for int8.
TEST_F(ReadyMade, TheLogitsAreThoseOfTheDequantizedWeights) {
  for (const auto& [format, most] :
       {std::pair{WeightFormat::kFp8, 0.005}, std::pair{WeightFormat::kInt8, 0.05}}) {
    for (const char* golden : {"tiny-llama2", "tiny-llama3", "tiny-qwen3"}) {
      Make(golden, format, Scales::kPowersOfTwo);
      if (tensors_.contains("lm_head.weight")) {
        Quantize(format, Scales::kPowersOfTwo, "lm_head.weight", &tensors_);
        config_["quantization_config"]["ignore"] = json::array();
      }
      TempDir reference;
      json plain = config_;
      plain.erase("quantization_config");
      Write(reference, plain, Dequantized(format, tensors_));
      const std::string directory = Write();
      for (const Isa isa : SupportedIsas()) {
        const std::string name(IsaName(isa));
        const std::vector<float> wanted = Logits(reference.path(), WeightFormat::kBf16, name);
        EXPECT_LT(RelativeError(Logits(directory, format, name), wanted), most)
            << golden << " " << WeightFormatName(format) << " " << name;
      }
    }
  }
}

TEST_F(ReadyMade, ItsFormatIsTheOnlyOneAndWhatItIgnoresStaysBf16) {
  for (const WeightFormat format : {WeightFormat::kFp8, WeightFormat::kInt8}) {
    Make("tiny-llama2", format);
    for (auto& weights : {std::vector<WeightFormat>{}, {format}}) {
      const auto engine = LoadEngine(weights);
      ASSERT_TRUE(engine.ok()) << engine.status();
      ASSERT_EQ((*engine)->model().weights.size(), 1u);
      EXPECT_EQ((*engine)->model().weights[0].format, format);
    }
    const std::string name(WeightFormatName(format));
    EXPECT_THAT(
        Refusal({format, WeightFormat::kInt4}),
        HasSubstr("weights: this checkpoint comes as " + name + ", from which int4 is not made"));
    EXPECT_THAT(Refusal({WeightFormat::kBf16}), HasSubstr("from which bf16 is not made"));

    const uint64_t with_bf16_head = (*LoadEngine())->model().weight_bytes;
    Quantize(format, Scales::kExact, "lm_head.weight", &tensors_);
    config_["quantization_config"]["ignore"] = json::array();
    EXPECT_LT((*LoadEngine())->model().weight_bytes, with_bf16_head);
  }
}

TEST_F(ReadyMade, AnIgnoredModuleOfALayerStaysBf16Too) {
  const std::string name = "model.layers.0.mlp.down_proj";
  const TestTensor plain = ReadTensors(GoldenPath("tiny-llama2")).at(name + ".weight");
  Make("tiny-llama2", WeightFormat::kInt8);
  const std::vector<float> all = Logits(Write(), WeightFormat::kInt8);
  tensors_[name + ".weight"] = plain;
  tensors_.erase(name + ".weight_scale");
  config_["quantization_config"]["ignore"] = {"lm_head", name};
  const std::vector<float> some = Logits(Write(), WeightFormat::kInt8);
  EXPECT_NE(all, some);
  EXPECT_LT(RelativeError(some, all), 0.05);
  config_["quantization_config"]["ignore"] = {"lm_head", "re:.*layers.0.mlp.down.*"};
  EXPECT_EQ(some, Logits(Write(), WeightFormat::kInt8));
}

TEST_F(ReadyMade, ScalesMayBeBf16) {
  Make("tiny-llama2", WeightFormat::kInt8, Scales::kPowersOfTwo);
  const std::vector<float> wanted = Logits(Write(), WeightFormat::kInt8);
  for (auto& [name, tensor] : tensors_) {
    if (!name.ends_with("_scale")) continue;
    std::vector<uint16_t> bits;
    for (const float scale : FloatsOf(tensor)) bits.push_back(ToBf16(scale).bits);
    tensor = TestTensor::Of("BF16", tensor.shape, bits);
  }
  EXPECT_EQ(Logits(Write(), WeightFormat::kInt8), wanted);
}

TEST_F(ReadyMade, DamagedTensorsAreRefusedByFileAndName) {
  const std::string name = "model.layers.1.mlp.up_proj.weight", scale = name + "_scale";
  const auto set_scale = [&](float value) {
    return [=](Tensors& t) { std::memcpy(t.at(scale).bytes.data() + 8, &value, 4); };
  };
  struct Case {
    std::string words;
    WeightFormat format;
    std::function<void(Tensors&)> damage;
  };
  const auto fp8 = WeightFormat::kFp8, int8 = WeightFormat::kInt8;
  const Case cases[] = {
      {name + " element 5 is not finite", fp8, [&](Tensors& t) { t.at(name).bytes[5] = 0x7f; }},
      {name + " element 6 is not finite", fp8, [&](Tensors& t) { t.at(name).bytes[6] = '\xff'; }},
      {scale + " element 2 is not positive", int8, set_scale(0)},
      {scale + " element 2 is not positive", int8, set_scale(-1)},
      {scale + " element 2 is not finite", int8, set_scale(NAN)},
      {scale + " element 2 is not finite", fp8, set_scale(INFINITY)},
      {scale + " has shape [1, ", int8,
       [&](Tensors& t) { std::swap(t.at(scale).shape[0], t.at(scale).shape[1]); }},
      {"no tensor " + scale, fp8, [&](Tensors& t) { t.erase(scale); }},
      {name + " has shape", int8,
       [&](Tensors& t) { std::swap(t.at(name).shape[0], t.at(name).shape[1]); }},
      {name + " is not F8_E4M3", fp8, [&](Tensors& t) { t.at(name).dtype = "I8"; }},
      {name + " is not I8", int8, [&](Tensors& t) { t.at(name).dtype = "F8_E4M3"; }},
      {"gate_proj.weight and model.layers.1.mlp.up_proj.weight are one product", int8,
       [&](Tensors& t) { t.at(name) = ReadTensors(GoldenPath("tiny-llama2")).at(name); }},
      {"embedding is not supported", int8,
       [&](Tensors& t) { Quantize(int8, Scales::kExact, "model.embed_tokens.weight", &t); }},
      {"lm_head.weight is quantised, but quantization_config ignores lm_head", int8,
       [&](Tensors& t) { Quantize(int8, Scales::kExact, "lm_head.weight", &t); }},
  };
  for (const Case& c : cases) {
    Make("tiny-llama2", c.format);
    c.damage(tensors_);
    const std::string refusal = Refusal();
    EXPECT_THAT(refusal, HasSubstr(c.words));
    EXPECT_THAT(refusal, HasSubstr(dir_.path())) << c.words;
  }
}

// Unless the configuration says otherwise, codes are no weights.
TEST_F(ReadyMade, CodesWithoutAConfigurationAreRefused) {
  Make("tiny-llama2", WeightFormat::kInt8);
  config_.erase("quantization_config");
  EXPECT_THAT(Refusal(), HasSubstr("is not F32, F16 or BF16"));
}

TEST_F(ReadyMade, AMatrixLeftInFloatingPointMustBeIgnored) {
  Make("tiny-llama2", WeightFormat::kInt8);
  config_["quantization_config"]["ignore"] = json::array();
  EXPECT_THAT(Refusal(), HasSubstr("lm_head.weight is not quantised, but quantization_config "
                                   "does not ignore lm_head"));
}

TEST_F(ReadyMade, SchemesThatAreNotComputedAreRefusedByTheirField) {
  using Spoil = std::function<void(json&)>;
  const auto weights = [](const char* key, json value) -> Spoil {
    return [=](json& q) { q["config_groups"]["group_0"]["weights"][key] = value; };
  };
  const auto activations = [](const char* key, json value) -> Spoil {
    return [=](json& q) { q["config_groups"]["group_0"]["input_activations"][key] = value; };
  };
  const std::pair<const char*, Spoil> cases[] = {
      {"quantization_config: quant_method", [](json& q) { q["quant_method"] = "gptq"; }},
      {"quantization_config: format", [](json& q) { q["format"] = "pack-quantized"; }},
      {"quantization_config: transform_config",
       [](json& q) { q["transform_config"] = {{"config_groups", json::object()}}; }},
      {"quantization_config: kv_cache_scheme",
       [](json& q) { q["kv_cache_scheme"] = {{"num_bits", 8}}; }},
      {"quantization_config.sparsity_config: format",
       [](json& q) { q["sparsity_config"] = {{"format", "sparse-24-bitmask"}}; }},
      {"quantization_config: config_groups",
       [](json& q) { q["config_groups"]["group_1"] = q["config_groups"]["group_0"]; }},
      {"quantization_config: config_groups", [](json& q) { q["config_groups"] = json::object(); }},
      {"quantization_config.group_0 is not an object",
       [](json& q) { q["config_groups"]["group_0"] = 3; }},
      {"quantization_config: ignore", [](json& q) { q["ignore"] = "lm_head"; }},
      {"group_0: targets",
       [](json& q) { q["config_groups"]["group_0"]["targets"] = {"Embedding"}; }},
      {"group_0: weights", [](json& q) { q["config_groups"]["group_0"].erase("weights"); }},
      {"group_0: output_activations",
       [](json& q) { q["config_groups"]["group_0"]["output_activations"] = json::object(); }},
      {"group_0.weights: num_bits", weights("num_bits", 4)},
      {"group_0.weights: type", weights("type", "uint")},
      {"group_0.weights: strategy", weights("strategy", "group")},
      {"group_0.weights: symmetric", weights("symmetric", false)},
      {"group_0.weights: dynamic", weights("dynamic", true)},
      {"group_0: input_activations",
       [](json& q) { q["config_groups"]["group_0"]["input_activations"] = nullptr; }},
      {"group_0.input_activations: type", activations("type", "float")},
      {"group_0.input_activations: strategy", activations("strategy", "tensor")},
      {"group_0.input_activations: dynamic", activations("dynamic", false)},
      {"group_0.input_activations: dynamic", activations("dynamic", "local")},
  };
  for (const auto& [words, spoil] : cases) {
    Make("tiny-llama2", WeightFormat::kInt8);
    spoil(config_["quantization_config"]);
    EXPECT_THAT(Refusal(), HasSubstr(words));
  }
}

TEST_F(ReadyMade, AnythingMayStandAnywhereInTheConfigurationWithoutACrash) {
  const json scheme = {{"quantization_config", Scheme(WeightFormat::kInt8)}};
  const json flat = scheme.flatten();
  for (const auto& [pointer, value] : flat.items()) {
    // The value and everything that holds it.
    for (json::json_pointer at(pointer); !at.empty(); at.pop_back()) {
      for (const json& odd : {json(nullptr), json(-1), json("x"), json::array(), json::object(),
                              json(true), json(1e300), json({{"a", {{"b", 1}}}})}) {
        TempDir dir;
        json config = ReadConfig(GoldenPath("tiny-llama2"));
        config.merge_patch(scheme);
        config[at] = odd;
        dir.Write("config.json", config.dump());
        (void)LoadModelConfig(dir.path());
      }
    }
  }
}

TEST_F(ReadyMade, WhatDoesNotChangeTheWeightsMayStandInTheConfiguration) {
  Make("tiny-llama2", WeightFormat::kFp8);
  json& q = config_["quantization_config"];
  q["format"] = "naive-quantized";
  q["quantization_status"] = "frozen";
  q["sparsity_config"] = {{"format", "dense"}};
  q["transform_config"] = json::object();
  q["config_groups"]["group_0"]["weights"]["observer"] = "minmax";
  EXPECT_TRUE(LoadEngine().ok());
}

TEST_F(ReadyMade, Fp8WeightsNeedNoRoundedActivations) {
  Make("tiny-llama2", WeightFormat::kFp8);
  config_["quantization_config"]["config_groups"]["group_0"]["input_activations"] = nullptr;
  EXPECT_TRUE(LoadEngine().ok());
}

}  // namespace
}  // namespace skim
