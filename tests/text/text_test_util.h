// Model directories for the tests of text/: the small committed ones, and made-up ones.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "tests/temp_dir.h"
#include "text/tokenizer.h"

namespace skim {

inline const char* const kSmall[] = {"byte_level", "llama2", "metaspace"};

inline std::string DataPath(const std::string& name) {
  return std::string(SKIM_SOURCE_DIR) + "/tests/text/data/" + name;
}

inline std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  EXPECT_TRUE(in.good()) << path;
  return {std::istreambuf_iterator<char>(in), {}};
}

inline nlohmann::json ReadJson(const std::string& path) {
  return nlohmann::json::parse(ReadFile(path));
}

inline std::unique_ptr<Tokenizer> MustLoad(const std::string& directory) {
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::Load(directory);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

// One of the small tokenizers with another chat template.
inline absl::StatusOr<std::unique_ptr<Tokenizer>> WithTemplate(const std::string& small,
                                                               const std::string& source) {
  const TempDir dir;
  dir.Write("tokenizer.json", ReadFile(DataPath(small) + "/tokenizer.json"));
  dir.Write("tokenizer_config.json", ReadFile(DataPath(small) + "/tokenizer_config.json"));
  dir.Write("chat_template.jinja", source);
  return Tokenizer::Load(dir.path());
}

// The texts of the special tokens in a tokenizer.json, with their ids.
inline std::vector<std::pair<std::string, TokenId>> SpecialTokens(const std::string& directory) {
  std::vector<std::pair<std::string, TokenId>> tokens;
  const nlohmann::json file = ReadJson(directory + "/tokenizer.json");
  for (const nlohmann::json& t : file.at("added_tokens")) {
    if (t.at("special").get<bool>()) tokens.emplace_back(t.at("content"), t.at("id"));
  }
  return tokens;
}

}  // namespace skim
