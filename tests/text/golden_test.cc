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

}  // namespace
}  // namespace skim
