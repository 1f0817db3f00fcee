#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "cli/prompt_file.h"
#include "cli/sweep_report.h"

namespace skim {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

v1::GetModelResponse Model() {
  v1::GetModelResponse model;
  for (const char* name : {"auto", "lookup", "self"}) model.add_drafters(name);
  model.add_weight_formats(v1::WEIGHT_FORMAT_BF16);
  model.add_weight_formats(v1::WEIGHT_FORMAT_INT8);
  return model;
}

std::vector<std::string> Names(const std::vector<SweepSetting>& settings) {
  std::vector<std::string> names;
  for (const SweepSetting& setting : settings) {
    names.push_back(setting.drafter + "/" + std::to_string(setting.draft_tokens()));
  }
  return names;
}

TEST(SweepSettings, AreAllThatTheDaemonHasWithEachNumberOfDrafts) {
  const auto settings = SweepSettings(Model(), {}, {3, 5}, {2, 8});
  ASSERT_TRUE(settings.ok()) << settings.status();
  EXPECT_THAT(Names(*settings),
              ElementsAre("off/0", "auto/0", "lookup/2", "lookup/8", "self:3/2", "self:3/8",
                          "self:5/2", "self:5/8", "self:int8/2", "self:int8/8"));
  EXPECT_TRUE(settings->front().speculation.has_off());
  EXPECT_EQ((*settings)[6].speculation.self().exit_layer(), 5u);
  EXPECT_EQ((*settings)[8].speculation.self().weights(), v1::WEIGHT_FORMAT_INT8);
}

TEST(SweepSettings, AreTheNamedOnesIfAnyAreNamed) {
  const auto settings = SweepSettings(Model(), {"self:4"}, {3}, {1});
  EXPECT_THAT(Names(*settings), ElementsAre("off/0", "self:4/1"));
}

TEST(SweepSettings, RefuseWhatIsNoDrafterOrNoNumber) {
  for (const char* bad : {"oracle", "off", "self:8:8"}) {
    const auto settings = SweepSettings(Model(), {bad}, {}, {2});
    EXPECT_THAT(std::string(settings.status().message()), HasSubstr("--drafters")) << bad;
  }
  const auto settings = SweepSettings(Model(), {"lookup"}, {}, {0});
  EXPECT_THAT(std::string(settings.status().message()), HasSubstr("--draft-tokens"));
}

v1::Final Answer(uint32_t tokens, double ms, uint32_t rounds, uint32_t drafted, uint32_t accepted) {
  v1::Final final;
  final.mutable_usage()->set_generated_tokens(tokens);
  final.mutable_timings()->set_generation_ms(ms);
  if (rounds > 0) {
    auto* source = final.mutable_speculation()->add_sources();
    source->set_rounds(rounds);
    source->set_draft_tokens(drafted);
    source->set_accepted_tokens(accepted);
  }
  return final;
}

TEST(SweepResult, SumsTokensBehindTheFirstAndTheirTime) {
  SweepResult result;
  EXPECT_EQ(result.tokens_per_s(), 0);
  result.Add(Answer(11, 100, 4, 12, 6));
  result.Add(Answer(31, 300, 6, 28, 24));
  result.Add(Answer(1, 0, 0, 0, 0));  // ended at once: has no rate
  EXPECT_DOUBLE_EQ(result.tokens_per_s(), 100);
  EXPECT_DOUBLE_EQ(result.acceptance(), 0.75);
  EXPECT_DOUBLE_EQ(result.tokens_per_round(), 4);
}

TEST(SweepReport, ComparesWithOffAndShowsWhatWasRefused) {
  const auto settings = SweepSettings(Model(), {"lookup", "self:99"}, {}, {4});
  std::vector<SweepResult> results(3);
  results[0].Add(Answer(11, 100, 0, 0, 0));
  results[1].Add(Answer(11, 50, 2, 8, 6));
  results[2].refused = "exit_layer: too many";
  const std::string table = SweepTable(*settings, results);
  EXPECT_THAT(table, HasSubstr("lookup               4       200.0     2.00x    75.0 %"));
  EXPECT_THAT(table, HasSubstr("self:99              4 refused: exit_layer: too many\n"));
  const auto json = SweepJson("m", 1, *settings, results);
  EXPECT_EQ(json["model"], "m");
  EXPECT_EQ(json["settings"][0]["speedup"], 1);
  EXPECT_EQ(json["settings"][1]["speedup"], 2);
  EXPECT_EQ(json["settings"][1]["draft_tokens"], 4);
  EXPECT_EQ(json["settings"][2]["refused"], "exit_layer: too many");
  EXPECT_FALSE(json["settings"][2].contains("speedup"));
}

class PromptFile : public testing::Test {
 protected:
  absl::StatusOr<std::vector<std::string>> Read(const std::string& text) {
    const std::string path = testing::TempDir() + "/skim_prompts.jsonl";
    std::ofstream(path) << text;
    return ReadPrompts(path);
  }
};

TEST_F(PromptFile, HasAPromptALine) {
  const auto prompts = Read("{\"prompt\": \"a\\nb\", \"answer\": \"x\"}\n\n{\"prompt\": \"c\"}\n");
  ASSERT_TRUE(prompts.ok()) << prompts.status();
  EXPECT_THAT(*prompts, ElementsAre("a\nb", "c"));
}

TEST_F(PromptFile, IsRefusedByLine) {
  for (const char* bad :
       {"{\"prompt\": 5}", "{\"text\": \"a\"}", "[1]", "{", "{\"prompt\": \"\"}", "\"prompt\""}) {
    const auto prompts = Read(std::string("{\"prompt\": \"a\"}\n") + bad + "\n");
    EXPECT_THAT(std::string(prompts.status().message()), HasSubstr("line 2")) << bad;
  }
  EXPECT_FALSE(Read("\n").ok());
  EXPECT_EQ(ReadPrompts("/nowhere/prompts").status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace skim
