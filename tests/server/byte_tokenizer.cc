#include "tests/server/byte_tokenizer.h"

#include <nlohmann/json.hpp>

#include "base/check.h"
#include "tests/temp_dir.h"

namespace skim {
namespace {

using Json = nlohmann::json;

// Byte-level vocabularies write each byte as one printable character: itself, if Latin-1
// prints it, else the next free one from U+0100 on.
std::string ByteSymbol(int byte) {
  const auto printable = [](int b) {
    return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174 && b <= 255);
  };
  int code = byte;
  if (!printable(byte)) {
    code = 256;
    for (int b = 0; b < byte; ++b) code += !printable(b);
  }
  if (code < 0x80) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xc0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3f))};
}

Json Special(TokenId id, const char* text) {
  return {{"id", id},        {"content", text},     {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", true}};
}

Json TokenizerJson() {
  Json vocabulary = Json::object();
  for (int byte = 0; byte < 256; ++byte) vocabulary[ByteSymbol(byte)] = byte;
  vocabulary["ST"] = kStToken;
  vocabulary["OP"] = kOpToken;
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", {Special(kEndToken, "<|end|>"), Special(kStartToken, "<|start|>")}},
          {"normalizer", nullptr},
          {"pre_tokenizer",
           {{"type", "ByteLevel"},
            {"add_prefix_space", false},
            {"trim_offsets", true},
            {"use_regex", false}}},
          {"post_processor", nullptr},
          {"decoder",
           {{"type", "ByteLevel"},
            {"add_prefix_space", false},
            {"trim_offsets", true},
            {"use_regex", false}}},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"vocab", vocabulary},
            {"merges", {"S T", "O P"}}}}};
}

constexpr char kTemplate[] =
    "{% for m in messages %}"
    "{% if m.role == 'forbidden' %}{{ raise_exception('this role is forbidden') }}{% endif %}"
    "<|start|>{{ m.role }}:{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant:{% endif %}";

}  // namespace

std::unique_ptr<Tokenizer> MakeByteTokenizer() {
  TempDir directory;
  directory.Write("tokenizer.json", TokenizerJson().dump());
  directory.Write("tokenizer_config.json",
                  Json{{"eos_token", "<|end|>"}, {"chat_template", kTemplate}}.dump());
  auto tokenizer = Tokenizer::Load(directory.path());
  if (!tokenizer.ok()) std::fprintf(stderr, "%s\n", tokenizer.status().ToString().c_str());
  SKIM_CHECK(tokenizer.ok());
  return *std::move(tokenizer);
}

}  // namespace skim
