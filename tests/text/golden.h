// Compares a tokenizer with what Hugging Face's libraries answered for the same input
// (tools/make_text_golden.py).
#pragma once

#include <string>
#include <vector>

#include "tests/text/text_test_util.h"

namespace skim {

inline std::string Fnv1a(const std::vector<TokenId>& ids) {
  uint64_t value = 0xcbf29ce484222325u;
  for (const TokenId id : ids) {
    for (int shift = 0; shift < 32; shift += 8) {
      value = (value ^ ((static_cast<uint32_t>(id) >> shift) & 0xffu)) * 0x100000001b3u;
    }
  }
  char text[17];
  snprintf(text, sizeof(text), "%016llx", static_cast<unsigned long long>(value));
  return text;
}

inline void ExpectEncodesAsRecorded(const Tokenizer& t, const nlohmann::json& golden) {
  ASSERT_GT(golden.at("encode").size(), 60u);
  for (const nlohmann::json& c : golden.at("encode")) {
    const std::string text = c.at("text");
    SCOPED_TRACE(c.at("text").dump());
    const std::vector<TokenId> plain = c.at("plain"), parsed = c.at("parsed"), full = c.at("full");
    EXPECT_EQ(t.Encode(text, false, false).value(), plain);
    EXPECT_EQ(t.Encode(text, false, true).value(), parsed);
    EXPECT_EQ(t.Encode(text, true, true).value(), full);
  }
}

inline void ExpectEncodesLargeTextsAsRecorded(const Tokenizer& t, const nlohmann::json& golden) {
  ASSERT_GT(golden.at("large").size(), 8u);
  for (const nlohmann::json& c : golden.at("large")) {
    SCOPED_TRACE(c.dump());
    std::string text;
    for (int i = 0; i < c.at("count").get<int>(); ++i) text += c.at("text").get<std::string>();
    const std::vector<TokenId> ids = t.Encode(text, false, false).value();
    EXPECT_EQ(ids.size(), c.at("ids").get<size_t>());
    EXPECT_EQ(Fnv1a(ids), c.at("fnv1a").get<std::string>());
  }
}

inline void ExpectDecodesAsRecorded(const Tokenizer& t, const nlohmann::json& golden) {
  ASSERT_GT(golden.at("decode").size(), 100u);
  for (const nlohmann::json& c : golden.at("decode")) {
    SCOPED_TRACE(c.dump());
    const std::vector<TokenId> ids = c.at("ids");
    EXPECT_EQ(t.Decode(ids, false).value(), c.at("text").get<std::string>());
    EXPECT_EQ(t.Decode(ids, true).value(), c.at("skipped").get<std::string>());
  }
}

inline void ExpectChatsAsRecorded(const Tokenizer& t, const nlohmann::json& golden) {
  ASSERT_GT(golden.at("chat").size(), 10u);
  for (const nlohmann::json& c : golden.at("chat")) {
    SCOPED_TRACE(c.dump());
    std::vector<ChatMessage> messages;
    for (const nlohmann::json& m : c.at("messages")) {
      messages.push_back({m.at("role"), m.at("content")});
    }
    const std::vector<TokenId> ids = c.at("ids");
    EXPECT_EQ(t.RenderChat(messages, c.at("prompt")).value(), c.at("text").get<std::string>());
    EXPECT_EQ(t.EncodeChat(messages, c.at("prompt")).value(), ids);
  }
}

}  // namespace skim
