// The file of the predictors: whose it is, and what is wrong with it.
#include "engine/predictors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "engine/engine.h"
#include "engine/fingerprint.h"
#include "kernels/backend.h"
#include "tests/engine/golden.h"

namespace skim {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr char kModel[] = "tiny-llama3";

class PredictorsFile : public ::testing::Test {
 protected:
  PredictorsFile() : directory_(::testing::TempDir() + "/skim_predictors_test") {
    std::filesystem::remove_all(directory_);
    std::filesystem::copy(GoldenPath(kModel), directory_);
  }
  ~PredictorsFile() override { std::filesystem::remove_all(directory_); }

  absl::StatusOr<Predictors> Load(const std::vector<int32_t>& wanted = {1, 2}) {
    const auto config = LoadModelConfig(directory_);
    const auto checkpoint = Checkpoint::Open(directory_);
    EXPECT_TRUE(config.ok() && checkpoint.ok());
    return Predictors::Load(*config, *checkpoint, wanted, ops_.get());
  }
  // Replaces bytes of a file by as many others.
  void Replace(const std::string& file, const std::string& from, const std::string& to) {
    ASSERT_EQ(from.size(), to.size());
    const std::string path = directory_ + "/" + file;
    std::ifstream in(path, std::ios::binary);
    std::string bytes((std::istreambuf_iterator<char>(in)), {});
    const size_t at = bytes.find(from);
    ASSERT_NE(at, std::string::npos);
    bytes.replace(at, from.size(), to);
    std::ofstream(path, std::ios::binary) << bytes;
  }

  const std::string directory_;
  std::unique_ptr<Ops> ops_ = *MakeOps({.threads = 1, .pin_threads = false});
};

// The fingerprint in it was computed in Python.
TEST_F(PredictorsFile, OfTheModelIsTaken) {
  const auto predictors = Load();
  ASSERT_TRUE(predictors.ok()) << predictors.status();
  EXPECT_THAT(predictors->boundaries(), ElementsAre(1, 2));
  EXPECT_EQ(predictors->At(1, 2).weight->out_features(), 2 * 32);
  EXPECT_GT(predictors->bytes(), 3 * 2 * 64 * 64u);
}

TEST_F(PredictorsFile, OnlyTheBoundariesThatAreWantedAreLoaded) {
  EXPECT_THAT(Load({2})->boundaries(), ElementsAre(2));
  EXPECT_THAT(Load({})->boundaries(), IsEmpty());
  std::filesystem::remove(directory_ + "/" + kPredictorFile);
  EXPECT_THAT(Load()->boundaries(), IsEmpty());
}

TEST_F(PredictorsFile, OfOtherWeightsIsRefusedByName) {
  const std::string path = directory_ + "/model.safetensors";
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  file.seekp(-100, std::ios::end);
  file.put('\x11');
  file.close();
  const absl::Status status = Load().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr(kPredictorFile));
  EXPECT_THAT(status.message(), HasSubstr("other weights"));
  EngineOptions options;
  options.model_dir = directory_;
  options.backend = {.threads = 1, .pin_threads = false};
  EXPECT_THAT(Engine::Load(options, {}).status().message(), HasSubstr(kPredictorFile));
}

TEST_F(PredictorsFile, WithoutItAModelWithScoutsIsNotServed) {
  std::ofstream(directory_ + "/skim_lazy.json") << R"({"version": 1, "layers": 3, "boundaries": [1],
             "scouts": [{"window": 4, "heads": [[2, 0]]}]})";
  EngineOptions options;
  options.model_dir = directory_;
  options.backend = {.threads = 1, .pin_threads = false};
  const auto engine = Engine::Load(options, {});
  ASSERT_TRUE(engine.ok()) << engine.status();
  EXPECT_EQ((*engine)->executor().kv_geometry().scouts[0].end_layer, 3);
  options.max_rows_per_step = 7;
  EXPECT_THAT(Engine::Load(options, {}).status().message(), HasSubstr("--max-rows-per-step"));
  options.max_rows_per_step = 8;
  std::filesystem::remove(directory_ + "/" + kPredictorFile);
  const absl::Status status = Engine::Load(options, {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("scouts of boundary 1"));
  EXPECT_THAT(status.message(), HasSubstr("./run calibrate --predictors"));
}

TEST_F(PredictorsFile, ThatIsBrokenIsRefusedByName) {
  using Damage = std::pair<const char*, const char*>;
  const std::pair<Damage, const char*> cases[] = {
      {{"\"version\":\"1\"", "\"version\":\"2\""}, "version"},
      {{"\"fingerprint\"", "\"fingerprins\""}, "other weights"},
      {{"\"1.2.bias\"", "\"1.3.bias\""}, "1.2.bias"},
      {{"\"2.2.weight\":{\"dtype\":\"BF16\",\"shape\":[64,64]",
        "\"2.2.weight\":{\"dtype\":\"BF16\",\"shape\":[4096] "},
       "2.2.weight"},
  };
  for (const auto& [damage, message] : cases) {
    std::filesystem::copy_file(GoldenPath(kModel) + "/" + kPredictorFile,
                               directory_ + "/" + kPredictorFile,
                               std::filesystem::copy_options::overwrite_existing);
    ASSERT_TRUE(Load().ok());
    Replace(kPredictorFile, damage.first, damage.second);
    const absl::Status status = Load().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << damage.second;
    EXPECT_THAT(status.message(), HasSubstr(kPredictorFile));
    EXPECT_THAT(status.message(), HasSubstr(message));
  }
}

}  // namespace
}  // namespace skim
