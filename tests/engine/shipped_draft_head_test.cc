// The draft head that this repository ships, on the model it was trained for.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "tests/engine/golden.h"
#include "tests/engine/scheduled_engine.h"
#include "tests/temp_dir.h"

namespace skim {
namespace {

constexpr int32_t kTokens = 48;

// "<|im_start|>user\n" and so on, in this model's tokens.
std::vector<TokenId> Prompt(const std::vector<TokenId>& question) {
  std::vector<TokenId> prompt = {1, 4093, 198};
  prompt.insert(prompt.end(), question.begin(), question.end());
  for (const TokenId token : {2, 198, 1, 520, 9531, 198}) prompt.push_back(token);
  return prompt;
}

TEST(ShippedDraftHead, FitsTheDefaultModelAndIsOftenRight) {
  const TempDir dir;
  for (const auto& entry : std::filesystem::directory_iterator(DefaultModelPath())) {
    if (entry.path().filename() == kDraftHeadFile) continue;
    std::filesystem::create_symlink(std::filesystem::canonical(entry.path()),
                                    std::filesystem::path(dir.path()) / entry.path().filename());
  }
  std::filesystem::copy(
      std::string(SKIM_SOURCE_DIR) + "/model_files/SmolLM2-135M-Instruct/" + kDraftHeadFile,
      dir.path() + "/" + kDraftHeadFile);
  auto harness = EngineHarness::Load(dir.path(), {});
  ASSERT_TRUE(harness.ok()) << harness.status();
  int32_t drafted = 0, accepted = 0;
  for (const std::vector<TokenId>& question : std::vector<std::vector<TokenId>>{
           {4898, 314, 260, 6376, 4461, 47}, {31530, 549, 253, 1890, 1977, 563, 253, 2644, 30}}) {
    std::vector<TokenId> plain;
    for (const DrafterKind drafter : {DrafterKind::kNone, DrafterKind::kHead}) {
      ScheduledEngine engine(harness->get(), {});
      Request request;
      request.prompt = Prompt(question);
      request.sampling.temperature = 0;
      request.sampling.max_tokens = kTokens;
      request.speculation.drafter = drafter;
      request.speculation.max_drafts = 1;
      const SeqId id = engine.Submit(request);
      engine.RunToEnd();
      if (drafter == DrafterKind::kNone) {
        plain = engine.client(id).tokens;
        continue;
      }
      EXPECT_EQ(engine.client(id).tokens, plain);
      drafted += engine.client(id).finish->speculation.total().drafted;
      accepted += engine.client(id).finish->speculation.total().accepted;
    }
  }
  EXPECT_GT(drafted, 40);
  EXPECT_GT(accepted, drafted / 4);
}

}  // namespace
}  // namespace skim
