// A copy of a golden model that a test may change, and what it lays beside it.
#pragma once

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "base/bf16.h"
#include "engine/engine.h"
#include "engine/fingerprint.h"
#include "engine/model_config.h"
#include "tests/engine/golden.h"
#include "tests/engine/write_safetensors.h"
#include "tests/temp_dir.h"

namespace skim {

class CopiedModel {
 public:
  using Tensors = std::map<std::string, TestTensor>;

  explicit CopiedModel(const std::string& golden) {
    for (const auto& entry : std::filesystem::directory_iterator(GoldenPath(golden))) {
      std::filesystem::copy(entry.path(), std::filesystem::path(path()) / entry.path().filename());
    }
    config_ = *LoadModelConfig(path());
    Stamp();
  }

  const std::string& path() const { return dir_.path(); }
  const ModelConfig& config() const { return config_; }
  // What a file beside it has to say.
  std::map<std::string, std::string>& metadata() { return metadata_; }

  // `change` sees every tensor by name.
  void ChangeWeights(const std::function<void(const std::string&, std::vector<float>*)>& change) {
    const std::string file = "model.safetensors";
    Tensors changed;
    {
      const SafetensorsFile weights = *SafetensorsFile::Open(path() + "/" + file);
      for (const auto& [name, entry] : weights.tensors()) {
        std::vector<float> values = *weights.ReadFloat(name);
        change(name, &values);
        changed[name] = TestTensor::Of("F32", entry.shape, values);
      }
    }
    dir_.Write(file, SafetensorsContent(changed));
    Stamp();
  }

  void WriteBeside(const std::string& file, const Tensors& tensors) {
    dir_.Write(file, SafetensorsContent(tensors, metadata_));
  }

  // What the engine says instead of loading it; nothing if it loads.
  std::string Refusal() const {
    EngineOptions options;
    options.model_dir = path();
    options.backend.pin_threads = false;
    const auto engine = Engine::Load(options, {});
    return engine.ok() ? "" : std::string(engine.status().message());
  }

 private:
  void Stamp() {
    metadata_ = {{"version", "1"}, {"fingerprint", *Fingerprint(*Checkpoint::Open(path()))}};
  }

  TempDir dir_;
  ModelConfig config_;
  std::map<std::string, std::string> metadata_;
};

// That keeps the size of what it multiplies, times `scale`.
inline TestTensor NoiseMatrix(int64_t rows, int64_t cols, float scale, std::mt19937* rng) {
  std::normal_distribution<float> values(0, scale / std::sqrt(static_cast<float>(cols)));
  std::vector<Bf16> matrix;
  for (int64_t i = 0; i < rows * cols; ++i) matrix.push_back(ToBf16(values(*rng)));
  return TestTensor::Of("BF16", {rows, cols}, matrix);
}

inline TestTensor NoiseVector(int64_t size, float scale, std::mt19937* rng) {
  std::normal_distribution<float> values(0, scale);
  std::vector<float> vector;
  for (int64_t i = 0; i < size; ++i) vector.push_back(values(*rng));
  return TestTensor::Of("F32", {size}, vector);
}

// The tensors of exit adapters that change a row as much as it is large.
inline CopiedModel::Tensors NoisyAdapters(const ModelConfig& config,
                                          const std::vector<int32_t>& exits, uint32_t seed) {
  std::mt19937 rng(seed);
  CopiedModel::Tensors tensors;
  for (const int32_t exit : exits) {
    const std::string name = std::to_string(exit);
    tensors[name + ".weight"] = NoiseMatrix(config.hidden_size, config.hidden_size, 1, &rng);
    tensors[name + ".bias"] = NoiseVector(config.hidden_size, 0.5f, &rng);
  }
  return tensors;
}

}  // namespace skim
