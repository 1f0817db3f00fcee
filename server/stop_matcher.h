// Finds stop strings in text that arrives in pieces. Gives out only text that can no longer
// become part of a stop string. What it finds does not depend on how the text was cut into
// pieces: the match that is complete first wins, and of two that end together the longer.
//
// Text and stop strings are whole UTF-8, so no cut ever falls inside a character.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace skim {

class StopMatcher {
 public:
  // `stops` are not empty strings. With `include`, the text given out ends with the match,
  // otherwise just before it.
  StopMatcher(std::vector<std::string> stops, bool include);

  // Text that is now certain. After a match, matched() is set and nothing more may be pushed.
  std::string Push(std::string_view text);
  // Text that may not be part of a match (before min_tokens). Gives out what was held, too.
  std::string PassThrough(std::string_view text);
  // What was held back; the text has ended.
  std::string Flush();

  const std::optional<std::string>& matched() const { return matched_; }

 private:
  size_t HeldBackBytes() const;

  const std::vector<std::string> stops_;
  const bool include_;
  std::string pending_;  // not given out yet: a proper prefix of some stop string
  std::optional<std::string> matched_;
};

}  // namespace skim
