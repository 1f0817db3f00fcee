#include <gmock/gmock.h>

#include <atomic>
#include <random>
#include <thread>

#include "tests/text/text_test_util.h"

namespace skim {
namespace {

using testing::AllOf;
using testing::HasSubstr;

std::vector<ChatMessage> Hello() { return {{"user", "Hello"}}; }

void ExpectLoadFails(const TempDir& dir, const std::string& file, const std::string& reason,
                     absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
  const absl::StatusOr<std::unique_ptr<Tokenizer>> t = Tokenizer::Load(dir.path());
  EXPECT_EQ(t.status().code(), code) << t.status();
  EXPECT_THAT(std::string(t.status().message()), AllOf(HasSubstr(file), HasSubstr(reason)));
}

std::string Small(const std::string& file) { return ReadFile(DataPath("byte_level") + "/" + file); }

TEST(TokenizerLoad, NamesTheMissingOrBrokenFile) {
  const TempDir dir;
  ExpectLoadFails(dir, "/tokenizer.json", "no such file", absl::StatusCode::kNotFound);
  dir.Write("tokenizer.json", "{\"version\":");
  ExpectLoadFails(dir, "/tokenizer.json", "EOF");
  dir.Write("tokenizer.json", Small("tokenizer.json"));
  dir.Write("tokenizer_config.json", "{]");
  ExpectLoadFails(dir, "/tokenizer_config.json", "column 2");
  dir.Write("tokenizer_config.json", "[]");
  ExpectLoadFails(dir, "/tokenizer_config.json", "not a JSON object");
  dir.Write("tokenizer_config.json", R"({"bos_token": 7})");
  ExpectLoadFails(dir, "/tokenizer_config.json", "bos_token");
  dir.Write("tokenizer_config.json", R"({"chat_template": 7})");
  ExpectLoadFails(dir, "/tokenizer_config.json", "chat_template");
  dir.Write("tokenizer_config.json", R"({"chat_template": "{% for %}"})");
  ExpectLoadFails(dir, "/tokenizer_config.json", "chat template: syntax error");
  dir.Write("tokenizer_config.json", R"({"added_tokens_decoder": {"1": {"content": "<think>"}}})");
  ExpectLoadFails(dir, "/tokenizer_config.json", "added_tokens_decoder.1");
  dir.Write("tokenizer_config.json", "{}");
  dir.Write("chat_template.jinja", "{{ unclosed");
  ExpectLoadFails(dir, "/chat_template.jinja", "syntax error");
  dir.Write("chat_template.jinja", "\xff");
  ExpectLoadFails(dir, "/chat_template.jinja", "utf-8");
}

TEST(TokenizerLoad, SurvivesAnyDamageToTheFile) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(seed);
  std::mt19937 rng(seed);
  const std::string whole = Small("tokenizer.json");
  const TempDir dir;
  for (int round = 0; round < 300; ++round) {
    std::string damaged = whole;
    if (round % 3 == 0) damaged.resize(rng() % whole.size());
    for (int i = rng() % 4; i >= 0 && !damaged.empty(); --i) {
      damaged[rng() % damaged.size()] = static_cast<char>(rng());
    }
    dir.Write("tokenizer.json", damaged);
    const absl::StatusOr<std::unique_ptr<Tokenizer>> t = Tokenizer::Load(dir.path());
    if (t.ok()) {
      // Whatever it became, it answers.
      (void)(*t)->Encode("Hello <|im_end|> world", true, true);
      (void)(*t)->Decode(std::vector<TokenId>{0, 1, 2, (*t)->vocab_size() - 1}, false);
    } else {
      EXPECT_THAT(std::string(t.status().message()), HasSubstr("/tokenizer.json"));
    }
  }
}

TEST(TokenizerLoad, RefusesWhatItCannotDo) {
  const TempDir dir;
  nlohmann::json file = nlohmann::json::parse(Small("tokenizer.json"));
  file["decoder"] = {{"type", "WordPiece"}, {"prefix", "##"}, {"cleanup", true}};
  dir.Write("tokenizer.json", file.dump());
  ExpectLoadFails(dir, "/tokenizer.json", "decoder");
  file = nlohmann::json::parse(Small("tokenizer.json"));
  file["model"]["dropout"] = 0.5;
  dir.Write("tokenizer.json", file.dump());
  ExpectLoadFails(dir, "/tokenizer.json", "dropout");
  file = nlohmann::json::parse(Small("tokenizer.json"));
  file["model"]["vocab"]["far"] = 4000000000u;
  dir.Write("tokenizer.json", file.dump());
  ExpectLoadFails(dir, "/tokenizer.json", "model.vocab");
  file = nlohmann::json::parse(Small("tokenizer.json"));
  file["decoder"] = {{"type", "NoSuchDecoder"}};
  dir.Write("tokenizer.json", file.dump());
  ExpectLoadFails(dir, "/tokenizer.json", "");
}

TEST(TokenizerLoad, TakesTheTemplateFileBeforeTheConfig) {
  const auto t = WithTemplate("byte_level", "from the file");
  ASSERT_TRUE(t.ok()) << t.status();
  EXPECT_EQ((*t)->RenderChat(Hello(), false).value(), "from the file");
}

TEST(TokenizerLoad, WorksWithoutAConfigAndThenHasNoTemplate) {
  const TempDir dir;
  dir.Write("tokenizer.json", Small("tokenizer.json"));
  const std::unique_ptr<Tokenizer> t = MustLoad(dir.path());
  EXPECT_FALSE(t->has_chat_template());
  EXPECT_EQ(t->EncodeChat(Hello(), true).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(t->RenderChat(Hello(), true).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_FALSE(t->Encode("Hello", false, false).value().empty());
}

TEST(TokenizerLoad, MakesTokensSpecialThatOnlyTheConfigNames) {
  const TempDir dir;
  nlohmann::json file = nlohmann::json::parse(Small("tokenizer.json"));
  file["added_tokens"] = nlohmann::json::array();
  dir.Write("tokenizer.json", file.dump());
  dir.Write("tokenizer_config.json", R"({"eos_token": "<|im_end|>", "pad_token": "[NEW]",
    "added_tokens_decoder": {"1": {"content": "<|im_start|>", "special": true}}})");
  const std::unique_ptr<Tokenizer> t = MustLoad(dir.path());
  EXPECT_EQ(t->Encode("<|im_start|><|im_end|>", false, true).value(),
            (std::vector<TokenId>{1, 2}));
  EXPECT_EQ(t->Decode(std::vector<TokenId>{1, 2}, true).value(), "");
  EXPECT_GT(t->Encode("[NEW]", false, true).value().size(), 1u) << "it has no embedding";
}

TEST(TokenizerEncode, RefusesInvalidUtf8AndNamesTheByte) {
  const std::unique_ptr<Tokenizer> t = MustLoad(DataPath("byte_level"));
  for (const std::string bad : {"abc\xff", "abc\xe2\x82", "abc\xc0\x80", "abc\xed\xa0\x80",
                                "abc\xf4\x90\x80\x80", "abc\x80"}) {
    const absl::Status status = t->Encode(bad, false, false).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("text"), HasSubstr("byte 3")));
    const std::vector<ChatMessage> chat = {{"user", "fine"}, {"user", bad}};
    EXPECT_THAT(std::string(t->EncodeChat(chat, true).status().message()),
                AllOf(HasSubstr("messages[1].content"), HasSubstr("byte 3")));
    const std::vector<ChatMessage> role = {{bad, "fine"}};
    EXPECT_THAT(std::string(t->RenderChat(role, true).status().message()),
                AllOf(HasSubstr("messages[0].role"), HasSubstr("byte 3")));
  }
}

TEST(TokenizerEncode, GivesNothingForNothing) {
  for (const char* name : kSmall) {
    const std::unique_ptr<Tokenizer> t = MustLoad(DataPath(name));
    EXPECT_TRUE(t->Encode("", false, false).value().empty());
    EXPECT_TRUE(t->Encode({}, false, true).value().empty());
    EXPECT_EQ(t->Decode({}, false).value(), "");
  }
}

TEST(TokenizerDecode, RefusesIdsOutsideTheVocabularyAndNamesThem) {
  const std::unique_ptr<Tokenizer> t = MustLoad(DataPath("byte_level"));
  for (const TokenId id : {-1, INT32_MIN, INT32_MAX, t->vocab_size()}) {
    const absl::Status status = t->Decode(std::vector<TokenId>{5, id}, false).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr("ids[1]"), HasSubstr(std::to_string(id))));
    EXPECT_EQ(t->TokenText(id), "");
  }
  EXPECT_TRUE(t->Decode(std::vector<TokenId>{t->vocab_size() - 1}, false).ok());
}

TEST(TokenizerDecode, PassesOverIdsThatNoTokenHas) {
  const TempDir dir;
  dir.Write("tokenizer.json", R"({"version":"1.0","added_tokens":[],"normalizer":null,
    "pre_tokenizer":null,"post_processor":null,
    "decoder":{"type":"Metaspace","replacement":"_","prepend_scheme":"always"},
    "model":{"type":"BPE","unk_token":null,"vocab":{"_a":2,"b":5},"merges":[]}})");
  const std::unique_ptr<Tokenizer> t = MustLoad(dir.path());
  EXPECT_EQ(t->vocab_size(), 6);
  EXPECT_EQ(t->Decode(std::vector<TokenId>{0, 2, 3, 2, 5}, false).value(), "a ab");
  EXPECT_EQ(t->TokenText(3), "");
  EXPECT_EQ(t->TokenText(2), " a");
}

TEST(TokenizerDecode, ShowsTheTextOfSingleTokens) {
  const std::unique_ptr<Tokenizer> t = MustLoad(DataPath("byte_level"));
  const std::vector<TokenId> ids = t->Encode("a😀<|im_end|>", false, true).value();
  EXPECT_EQ(t->TokenText(ids.front()), "a");
  EXPECT_EQ(t->TokenText(ids[1]), "\ufffd");
  EXPECT_EQ(t->TokenText(ids.back()), "<|im_end|>");
}

absl::Status RenderError(const std::string& source) {
  const auto t = WithTemplate("byte_level", source);
  if (!t.ok()) return t.status();
  return (*t)->EncodeChat(Hello(), true).status();
}

TEST(ChatTemplate, PassesOnItsOwnMessageWhenItRaises) {
  const absl::Status status = RenderError(
      "{% macro m() %}{{ raise_exception('only ' + messages[0].role + '!') }}{% endmacro %}"
      "{{ m() }}");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "messages: only user!");
}

TEST(ChatTemplate, ReportsItsFaults) {
  for (const char* source :
       {"{{ messages[0].content.nothing.at.all }}", "{{ no_such_function() }}",
        "{{ messages[0] + 1 }}", "{% include 'other' %}", "{{ strftime_now('%Q %!') }}",
        "{{ messages | tojson(separators=1) }}", "{{ 'a'.no_such_method() }}"}) {
    const absl::Status status = RenderError(source);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << source;
    EXPECT_THAT(std::string(status.message()), HasSubstr("chat template")) << source;
  }
}

TEST(ChatTemplate, CannotHangOrFillTheMemory) {
  for (const char* source :
       {"{% for i in range(10**9) %}x{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% for i in range(99999) recursive %}{{ loop(range(99999)) }}{% endfor %}",
        "{{ 'x' * 10**12 }}",
        "{% set x = 'x' * 100000 %}{% for i in range(9999) %}{{ x }}{% endfor %}"}) {
    EXPECT_EQ(RenderError(source).code(), absl::StatusCode::kInvalidArgument) << source;
  }
  std::string deep;
  for (int i = 0; i < 100000; ++i) deep += "(";
  EXPECT_FALSE(RenderError("{{ " + deep + " }}").ok());
}

TEST(ChatTemplate, KnowsTheDate) {
  const auto t = WithTemplate("byte_level", "{{ strftime_now('%Y-%m-%d') }}");
  EXPECT_THAT((*t)->RenderChat(Hello(), true).value(), testing::MatchesRegex("20..-..-.."));
}

TEST(Tokenizer, MayBeUsedByManyThreadsAtOnce) {
  const std::unique_ptr<Tokenizer> t = MustLoad(DataPath("byte_level"));
  const nlohmann::json golden = ReadJson(DataPath("byte_level") + ".json");
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&, i] {
      const nlohmann::json& cases = golden.at("encode");
      for (size_t round = 0; round < 3 * cases.size(); ++round) {
        const nlohmann::json& c = cases[(round * (2 * i + 1)) % cases.size()];
        const std::vector<TokenId> ids = t->Encode(c.at("text").get<std::string>(), false, false)
                                             .value_or(std::vector<TokenId>());
        if (ids != c.at("plain").get<std::vector<TokenId>>()) ++wrong;
        const std::unique_ptr<TextStream> stream = t->NewStream(false);
        std::string text;
        for (const TokenId id : ids) text += stream->Push(id);
        if (text + stream->Flush() != t->Decode(ids, false).value_or("?")) ++wrong;
        if (!t->EncodeChat(Hello(), true).ok()) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace skim
