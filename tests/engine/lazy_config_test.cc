#include "engine/lazy_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>

namespace skim {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

ModelConfig Model(int32_t layers) {
  ModelConfig model;
  model.layers = layers;
  model.heads = 9;
  return model;
}

class LazyConfigFile : public ::testing::Test {
 protected:
  LazyConfigFile() : directory_(::testing::TempDir() + "/skim_lazy_config_test") {
    std::filesystem::create_directories(directory_);
  }
  ~LazyConfigFile() override { std::filesystem::remove_all(directory_); }

  absl::StatusOr<LazyConfig> Load(const std::string& text) {
    std::ofstream(directory_ + "/skim_lazy.json") << text;
    return LoadLazyConfig(directory_, Model(30), std::nullopt);
  }

  const std::string directory_;
};

TEST_F(LazyConfigFile, WithoutItBoundariesAreTheUnionOfTheProfilesCuts) {
  const auto config = LoadLazyConfig(directory_, Model(30), std::nullopt);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_THAT(config->boundaries, ElementsAre(9, 18, 21, 23, 27));
  EXPECT_THAT(config->Find("safe")->keep, ElementsAre(1, 1, 0.5f, 0.2f, 0.2f));
  EXPECT_THAT(config->Find("fast")->keep, ElementsAre(1, 0.3f, 0.3f, 0.1f, 0.1f));
  EXPECT_THAT(config->Find("paper")->keep, ElementsAre(0.5f, 0.25f, 0.25f, 0.25f, 0.125f));
  EXPECT_EQ(config->Find("paper")->decode, DecodeMode::kStrict);
  EXPECT_EQ(config->Find("slow"), nullptr);
}

TEST_F(LazyConfigFile, EveryNumberOfLayersHasAValidDefault) {
  for (int32_t layers = 1; layers <= 130; ++layers) {
    const auto config = LoadLazyConfig(directory_, Model(layers), std::nullopt);
    ASSERT_TRUE(config.ok());
    int32_t before = 0;
    for (const int32_t boundary : config->boundaries) {
      ASSERT_GT(boundary, before);
      ASSERT_LT(boundary, layers);
      before = boundary;
    }
    for (const PruneProfile& profile : config->profiles) {
      ASSERT_EQ(profile.keep.size(), config->boundaries.size());
      ASSERT_TRUE(std::ranges::is_sorted(profile.keep, std::greater<>()));
    }
  }
}

TEST_F(LazyConfigFile, GivenBoundariesWinAndOfferWhatTheyCanServe) {
  std::ofstream(directory_ + "/skim_lazy.json") << "broken";
  const auto late = LoadLazyConfig(directory_, Model(30), std::vector<int32_t>{18, 23});
  ASSERT_TRUE(late.ok()) << late.status();
  EXPECT_NE(late->Find("fast"), nullptr);
  EXPECT_EQ(late->Find("paper"), nullptr);
  const auto none = LoadLazyConfig(directory_, Model(30), std::vector<int32_t>{});
  EXPECT_TRUE(none->boundaries.empty() && none->profiles.empty());
  for (const std::vector<int32_t>& wrong : {std::vector<int32_t>{0}, {30}, {9, 9}, {18, 9}}) {
    EXPECT_THAT(LoadLazyConfig(directory_, Model(30), wrong).status().message(),
                HasSubstr("--lazy-boundaries"));
  }
}

TEST_F(LazyConfigFile, IsReadFieldByField) {
  const auto config = Load(R"({"version": 1, "layers": 30, "boundaries": [16, 20],
      "score_heads": [[[15, 3], [13, 1]], []],
      "profiles": {"fast": {"keep": [0.4, 0.1], "decode": "static", "revival_budget": 3,
                            "score_window": 16},
                   "own": {"keep": [1, 0.2]},
                   "late": {"keep": [1, 0.2], "decode": "late", "look_back": 32}}})");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_THAT(config->boundaries, ElementsAre(16, 20));
  ASSERT_EQ(config->score_heads[0].size(), 2u);
  EXPECT_EQ(config->score_heads[0][1].layer, 13);
  EXPECT_EQ(config->score_heads[0][1].head, 1);
  EXPECT_TRUE(config->score_heads[1].empty());
  const PruneProfile& fast = *config->Find("fast");
  EXPECT_THAT(fast.keep, ElementsAre(0.4f, 0.1f));
  EXPECT_EQ(fast.decode, DecodeMode::kStatic);
  EXPECT_EQ(fast.revival_budget, 3);
  EXPECT_EQ(fast.window, 16);
  EXPECT_EQ(config->Find("own")->decode, DecodeMode::kLazy);
  EXPECT_EQ(config->Find("own")->look_back, 0);
  EXPECT_EQ(config->Find("late")->look_back, 32);
}

TEST_F(LazyConfigFile, ScoutsBelongToABoundaryAndToProfilesThatCutThere) {
  const std::string begin = R"({"version": 1, "layers": 30, "boundaries": [6, 18, 23])";
  const auto none = Load(begin + "}");
  ASSERT_TRUE(none.ok()) << none.status();
  for (const char* name : kScoutProfiles) EXPECT_EQ(none->Find(name), nullptr);
  const auto config =
      Load(begin + R"(, "scouts": [{"window": 12, "heads": [[21, 0], [17, 3]]}, null, null]})");
  ASSERT_TRUE(config.ok()) << config.status();
  ASSERT_EQ(config->scouts.size(), 3u);
  EXPECT_EQ(config->scouts[0].window, 12);
  EXPECT_EQ(config->scouts[0].heads[1].layer, 17);
  EXPECT_EQ(config->scouts[0].end_layer(), 22);
  EXPECT_FALSE(config->scouts[1].any());
  EXPECT_THAT(config->Find("scout-safe")->keep, ElementsAre(0.5f, 0.25f, 0.1f));
  EXPECT_EQ(config->Find("scout-safe")->decode, DecodeMode::kLate);
  EXPECT_THAT(config->Find("fast")->keep, ElementsAre(1, 0.3f, 0.1f)) << "nobody cuts there else";
}

// Who is cut is seen above, by those who decode in mode phantom, by scouts, or by nobody.
TEST_F(LazyConfigFile, PredictorsAreNeededOfCutsThatSomebodySees) {
  auto config = *Load(R"({"version": 1, "layers": 30, "boundaries": [6, 12, 18],
      "scouts": [null, {"heads": [[17, 3]]}, null]})");
  const std::vector<float> low = {0.6f, 0.6f, 0.3f}, scouted = {1, 0.6f, 0.3f},
                           all = {0.8f, 0.6f, 0.3f}, late = {1, 1, 0.3f};
  EXPECT_EQ(config.FirstUnpredicted(low, DecodeMode::kLazy), 0);
  EXPECT_EQ(config.FirstUnpredicted(low, DecodeMode::kPhantom), 6);
  EXPECT_EQ(config.FirstUnpredicted(scouted, DecodeMode::kLazy), 12);
  config.predicted = {12};
  EXPECT_EQ(config.FirstUnpredicted(scouted, DecodeMode::kLazy), 0);
  EXPECT_EQ(config.FirstUnpredicted(scouted, DecodeMode::kPhantom), 18);
  EXPECT_EQ(config.FirstUnpredicted(all, DecodeMode::kStatic), 6);
  EXPECT_EQ(config.FirstUnpredicted(late, DecodeMode::kStatic), 0);
}

TEST_F(LazyConfigFile, RefusesWhatIsWrongByItsName) {
  const std::pair<const char*, const char*> cases[] = {
      {"not JSON", "{"},
      {"version", R"({"layers": 30, "boundaries": [18]})"},
      {"version", R"({"version": 2, "layers": 30, "boundaries": [18]})"},
      {"layers", R"({"version": 1, "layers": 24, "boundaries": [18]})"},
      {"boundaries", R"({"version": 1, "layers": 30})"},
      {"boundaries", R"({"version": 1, "layers": 30, "boundaries": []})"},
      {"boundaries", R"({"version": 1, "layers": 30, "boundaries": [18, 18]})"},
      {"boundaries", R"({"version": 1, "layers": 30, "boundaries": [30]})"},
      {"boundaries", R"({"version": 1, "layers": 30, "boundaries": ["18"]})"},
      {"\"heads\" is unknown", R"({"version": 1, "layers": 30, "boundaries": [18], "heads": 1})"},
      {"score_heads", R"({"version": 1, "layers": 30, "boundaries": [18], "score_heads": []})"},
      {"layer 18",
       R"({"version": 1, "layers": 30, "boundaries": [18], "score_heads": [[[18, 0]]]})"},
      {"head 9", R"({"version": 1, "layers": 30, "boundaries": [18], "score_heads": [[[17, 9]]]})"},
      {"score_heads", R"({"version": 1, "layers": 30, "boundaries": [18], "score_heads": [[17]]})"},
      {"scouts", R"({"version": 1, "layers": 30, "boundaries": [6, 18], "scouts": [null]})"},
      {"scouts", R"({"version": 1, "layers": 30, "boundaries": [18], "scouts": [[[20, 1]]]})"},
      {"scouts of boundary 18: heads",
       R"({"version": 1, "layers": 30, "boundaries": [18], "scouts": [{"heads": []}]})"},
      {"names layer 17 for boundary 18, not one of 18 to 29",
       R"({"version": 1, "layers": 30, "boundaries": [18], "scouts": [{"heads": [[17, 1]]}]})"},
      {"window", R"({"version": 1, "layers": 30, "boundaries": [18],
                     "scouts": [{"window": 65, "heads": [[18, 1]]}]})"},
      {"\"rows\" is unknown", R"({"version": 1, "layers": 30, "boundaries": [18],
                                  "scouts": [{"rows": 1, "heads": [[18, 1]]}]})"},
      {"keep", R"({"version": 1, "layers": 30, "boundaries": [18], "profiles": {"a": {}}})"},
      {"keep",
       R"({"version": 1, "layers": 30, "boundaries": [18], "profiles": {"a": {"keep": [0]}}})"},
      {"keep",
       R"({"version": 1, "layers": 30, "boundaries": [18], "profiles": {"a": {"keep": [1.5]}}})"},
      {"decode", R"({"version": 1, "layers": 30, "boundaries": [18],
                     "profiles": {"a": {"keep": [0.5], "decode": "eager"}}})"},
      {"revival_budget", R"({"version": 1, "layers": 30, "boundaries": [18],
                             "profiles": {"a": {"keep": [0.5], "revival_budget": -1}}})"},
      {"score_window", R"({"version": 1, "layers": 30, "boundaries": [18],
                           "profiles": {"a": {"keep": [0.5], "score_window": 0}}})"},
      {"look_back", R"({"version": 1, "layers": 30, "boundaries": [18],
                        "profiles": {"a": {"keep": [0.5], "look_back": 1}}})"},
  };
  for (const auto& [what, text] : cases) {
    const auto config = Load(text);
    EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(config.status().message()), HasSubstr(what)) << text;
    EXPECT_THAT(std::string(config.status().message()), HasSubstr("skim_lazy.json"));
  }
}

}  // namespace
}  // namespace skim
