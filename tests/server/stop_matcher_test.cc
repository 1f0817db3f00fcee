#include "server/stop_matcher.h"

#include <gtest/gtest.h>

#include <random>

namespace skim {
namespace {

struct Found {
  std::string text;
  std::optional<std::string> matched;
  bool operator==(const Found&) const = default;
};

// The definition, on the whole text: the match with the first end, the longest of those.
Found Oracle(const std::string& text, const std::vector<std::string>& stops, bool include) {
  for (size_t end = 1; end <= text.size(); ++end) {
    std::optional<std::string> longest;
    for (const std::string& stop : stops) {
      if (stop.size() > end || text.compare(end - stop.size(), stop.size(), stop) != 0) continue;
      if (!longest.has_value() || stop.size() > longest->size()) longest = stop;
    }
    if (longest) return {text.substr(0, include ? end : end - longest->size()), longest};
  }
  return {text, std::nullopt};
}

TEST(StopMatcher, FindsWhatTheDefinitionSaysHoweverTheTextIsCut) {
  std::mt19937 random(20240607);
  int matches = 0;
  for (int round = 0; round < 20'000; ++round) {
    const auto letters = [&](int length) {
      std::string text;
      for (int i = 0; i < length; ++i) text += "ab"[random() % 2];
      return text;
    };
    std::vector<std::string> stops;
    for (unsigned i = 0; i < random() % 4; ++i) stops.push_back(letters(1 + random() % 7));
    const bool include = random() % 2 == 0;
    const std::string text = letters(random() % 40);

    StopMatcher matcher(stops, include);
    Found found;
    for (size_t at = 0; at < text.size() && !matcher.matched();) {
      const size_t length = random() % 4;
      found.text += matcher.Push(text.substr(at, length));
      at += length;
    }
    found.text += matcher.Flush();
    found.matched = matcher.matched();
    matches += found.matched.has_value();
    ASSERT_EQ(found, Oracle(text, stops, include)) << "round " << round << " text " << text;
  }
  EXPECT_GT(matches, 1000);
}

TEST(StopMatcher, HoldsBackNoMoreThanCouldBecomeAStop) {
  StopMatcher matcher({"STOP"}, false);
  EXPECT_EQ(matcher.Push("hello"), "hello");
  EXPECT_EQ(matcher.Push(" ST"), " ");
  EXPECT_EQ(matcher.Push("ST"), "ST");
  EXPECT_EQ(matcher.Push("x"), "STx");
  EXPECT_EQ(matcher.Push("S"), "");
  EXPECT_EQ(matcher.Flush(), "S");
}

TEST(StopMatcher, DoesNotMatchTextThatWasPassedThrough) {
  StopMatcher matcher({"STOP"}, false);
  EXPECT_EQ(matcher.PassThrough("ST"), "ST");
  EXPECT_EQ(matcher.Push("OP"), "OP");
  EXPECT_FALSE(matcher.matched().has_value());
}

}  // namespace
}  // namespace skim
