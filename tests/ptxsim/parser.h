// Splits PTX text into statements. See the PTX ISA, "Syntax".
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace ptxsim {

struct Statement {
  int line = 0;
  std::string text;  // without comments, ends before ';', ':', '{' or '}'
  char end = ';';    // what ended it; '{' and '}' of blocks only, not of vectors
};

std::vector<Statement> SplitStatements(std::string_view text);

// "a, {b, c}, [d+4]" -> three pieces without surrounding blanks.
std::vector<std::string> SplitOperands(std::string_view text);

std::string Trim(std::string_view text);
// Takes the first word (up to a blank) off `text`.
std::string TakeWord(std::string* text);

}  // namespace ptxsim
