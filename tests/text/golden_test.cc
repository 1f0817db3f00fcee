#include "tests/text/golden.h"

namespace skim {
namespace {

class SmallGolden : public testing::TestWithParam<const char*> {
 protected:
  std::unique_ptr<Tokenizer> tokenizer_ = MustLoad(DataPath(GetParam()));
  nlohmann::json golden_ = ReadJson(DataPath(GetParam()) + ".json");
};
INSTANTIATE_TEST_SUITE_P(, SmallGolden, testing::ValuesIn(kSmall));

TEST_P(SmallGolden, EncodesAsHuggingFaceDoes) { ExpectEncodesAsRecorded(*tokenizer_, golden_); }

TEST_P(SmallGolden, EncodesAMegabyteOfOneCharacterAsHuggingFaceDoes) {
  ExpectEncodesLargeTextsAsRecorded(*tokenizer_, golden_);
}

TEST_P(SmallGolden, DecodesAsHuggingFaceDoes) { ExpectDecodesAsRecorded(*tokenizer_, golden_); }

TEST_P(SmallGolden, RendersAndEncodesChatsAsHuggingFaceDoes) {
  ExpectChatsAsRecorded(*tokenizer_, golden_);
}

TEST(TemplateGolden, PrintsWhatJinjaPrints) {
  const nlohmann::json golden = ReadJson(DataPath("templates.json"));
  std::vector<ChatMessage> messages;
  for (const nlohmann::json& m : golden.at("messages")) {
    messages.push_back({m.at("role"), m.at("content")});
  }
  ASSERT_GT(golden.at("cases").size(), 30u);
  for (const nlohmann::json& c : golden.at("cases")) {
    SCOPED_TRACE(c.dump());
    const auto t = WithTemplate("byte_level", c.at("template"));
    ASSERT_TRUE(t.ok()) << t.status();
    const absl::StatusOr<std::string> text = (*t)->RenderChat(messages, false);
    EXPECT_TRUE(text.ok()) << text.status();
    EXPECT_EQ(text.value_or(""), c.at("text").get<std::string>());
  }
}

}  // namespace
}  // namespace skim
