// Needs models/SmolLM2-135M-Instruct (`./run model`).
#include "tests/text/golden.h"

namespace skim {
namespace {

class DefaultModelText : public testing::Test {
 protected:
  std::unique_ptr<Tokenizer> tokenizer_ =
      MustLoad(std::string(SKIM_SOURCE_DIR) + "/models/SmolLM2-135M-Instruct");
  nlohmann::json golden_ = ReadJson(DataPath("smollm2.json"));
};

TEST_F(DefaultModelText, EncodesAsHuggingFaceDoes) {
  EXPECT_EQ(tokenizer_->vocab_size(), 49152);
  ExpectEncodesAsRecorded(*tokenizer_, golden_);
}

TEST_F(DefaultModelText, EncodesAMegabyteOfOneCharacterAsHuggingFaceDoes) {
  ExpectEncodesLargeTextsAsRecorded(*tokenizer_, golden_);
}

TEST_F(DefaultModelText, DecodesAsHuggingFaceDoes) {
  ExpectDecodesAsRecorded(*tokenizer_, golden_);
}

TEST_F(DefaultModelText, RendersAndEncodesChatsAsHuggingFaceDoes) {
  ExpectChatsAsRecorded(*tokenizer_, golden_);
}

}  // namespace
}  // namespace skim
