#include <random>

#include "tests/text/text_test_util.h"

namespace skim {
namespace {

// Python's and Rust's rule is the same: no overlong forms, no surrogates, nothing above
// U+10FFFF. JSON has it too, so nlohmann's serializer is the judge.
bool IsUtf8(const std::string& s) {
  try {
    (void)nlohmann::json(s).dump();
    return true;
  } catch (const nlohmann::json::exception&) {
    return false;
  }
}

class Streams : public testing::TestWithParam<const char*> {
 protected:
  void ExpectStreamEqualsDecode(const std::vector<TokenId>& ids, bool skip_special) {
    const std::unique_ptr<TextStream> stream = tokenizer_->NewStream(skip_special);
    std::string text;
    for (const TokenId id : ids) {
      const std::string piece = stream->Push(id);
      EXPECT_TRUE(IsUtf8(piece));
      text += piece;
    }
    const std::string rest = stream->Flush();
    EXPECT_TRUE(IsUtf8(rest));
    EXPECT_EQ(text + rest, tokenizer_->Decode(ids, skip_special).value());
  }

  std::unique_ptr<Tokenizer> tokenizer_ = MustLoad(DataPath(GetParam()));
};
INSTANTIATE_TEST_SUITE_P(, Streams, testing::ValuesIn(kSmall));

TEST_P(Streams, OfRandomIdsEqualTheirDecoding) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(seed);
  std::mt19937 rng(seed);
  for (int round = 0; round < 4000; ++round) {
    // Half of the rounds stay among the bytes and special tokens at the vocabulary's start.
    const int limit = round % 2 == 0 ? tokenizer_->vocab_size() : 300;
    std::vector<TokenId> ids(rng() % 40);
    for (TokenId& id : ids) id = static_cast<TokenId>(rng() % limit);
    ExpectStreamEqualsDecode(ids, round % 4 < 2);
  }
}

TEST_P(Streams, OfEncodedTextGiveTheTextBack) {
  const nlohmann::json golden = ReadJson(DataPath(GetParam()) + ".json");
  for (const nlohmann::json& c : golden.at("encode")) {
    const std::string text = c.at("text");
    const std::vector<TokenId> ids = tokenizer_->Encode(text, false, false).value();
    const std::unique_ptr<TextStream> stream = tokenizer_->NewStream(false);
    std::string back;
    for (const TokenId id : ids) back += stream->Push(id);
    back += stream->Flush();
    // A SentencePiece tokenizer cannot tell its own space mark from a space, and the newer
    // conversion does not add the first space where one is there.
    if (GetParam() != std::string("byte_level") &&
        (text.find("▁") != std::string::npos || text.starts_with(" "))) {
      continue;
    }
    EXPECT_EQ(back, text);
  }
}

TEST_P(Streams, SendACharacterWithItsLastByte) {
  const std::string text = "x😀y";
  const std::vector<TokenId> ids = tokenizer_->Encode(text, false, false).value();
  ASSERT_GE(ids.size(), 6u) << "the emoji must take several tokens for this test";
  const std::unique_ptr<TextStream> stream = tokenizer_->NewStream(false);
  std::vector<std::string> pieces;
  for (const TokenId id : ids) {
    const std::string piece = stream->Push(id);
    if (!piece.empty()) pieces.push_back(piece);
  }
  EXPECT_EQ(pieces, (std::vector<std::string>{"x", "😀", "y"}));
  EXPECT_EQ(stream->Flush(), "");
}

TEST_P(Streams, EndAnUnfinishedCharacterWithAReplacement) {
  std::vector<TokenId> ids = tokenizer_->Encode("x😀", false, false).value();
  ids.pop_back();
  const std::unique_ptr<TextStream> stream = tokenizer_->NewStream(false);
  std::string text;
  for (const TokenId id : ids) text += stream->Push(id);
  EXPECT_EQ(text, "x");
  EXPECT_EQ(stream->Flush(), "\ufffd");
  EXPECT_EQ(stream->Flush(), "");
}

TEST_P(Streams, SayNothingForIdsOutsideTheVocabulary) {
  const std::unique_ptr<TextStream> stream = tokenizer_->NewStream(false);
  for (const TokenId id : {-1, INT32_MIN, INT32_MAX, tokenizer_->vocab_size()}) {
    EXPECT_EQ(stream->Push(id), "");
  }
  EXPECT_EQ(stream->Flush(), "");
}

TEST_P(Streams, OutliveNothingTheyNeed) {
  std::unique_ptr<TextStream> stream = tokenizer_->NewStream(false);
  const TokenId id = tokenizer_->Encode("a", false, false).value().back();
  tokenizer_.reset();
  EXPECT_EQ(stream->Push(id) + stream->Flush(), "a");
}

}  // namespace
}  // namespace skim
