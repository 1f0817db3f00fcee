#include "tests/ptxsim/parser.h"

#include <cctype>

namespace ptxsim {
namespace {

bool IsBlank(char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; }

// Comments become blanks, so that lines keep their numbers.
std::string WithoutComments(std::string_view text) {
  std::string out(text);
  for (size_t i = 0; i + 1 < out.size(); ++i) {
    if (out[i] != '/' || (out[i + 1] != '/' && out[i + 1] != '*')) continue;
    const bool line = out[i + 1] == '/';
    size_t end = out.find(line ? "\n" : "*/", i + 2);
    end = end == std::string::npos ? out.size() : end + (line ? 0 : 2);
    for (; i < end; ++i) {
      if (out[i] != '\n') out[i] = ' ';
    }
    --i;
  }
  return out;
}

// Directives that a line ends, not a semicolon.
bool EndsWithLine(const std::string& statement) {
  for (const char* directive : {".version", ".target", ".address_size", ".file", ".loc"}) {
    if (statement.rfind(directive, 0) == 0) return true;
  }
  return false;
}

}  // namespace

std::string Trim(std::string_view text) {
  while (!text.empty() && IsBlank(text.front())) text.remove_prefix(1);
  while (!text.empty() && IsBlank(text.back())) text.remove_suffix(1);
  return std::string(text);
}

std::string TakeWord(std::string* text) {
  size_t end = 0;
  while (end < text->size() && !IsBlank((*text)[end])) ++end;
  std::string word = text->substr(0, end);
  *text = Trim(text->substr(end));
  return word;
}

std::vector<Statement> SplitStatements(std::string_view raw) {
  const std::string text = WithoutComments(raw);
  std::vector<Statement> statements;
  std::string current;
  int line = 1, first_line = 1;
  bool in_vector = false;
  const auto finish = [&](char end) {
    statements.push_back({first_line, Trim(current), end});
    current.clear();
  };
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    const bool empty = current.empty();
    if (c == '\n') {
      ++line;
      if (!empty && EndsWithLine(current)) finish(';');
      if (!current.empty()) current += ' ';
      continue;
    }
    if (empty && IsBlank(c)) continue;
    if (empty) first_line = line;
    const bool opens_block = c == '{' && (empty || current.find('.') == 0);
    if (in_vector || (c == '{' && !opens_block)) {
      in_vector = c != '}';
      current += c;
    } else if (c == ';' || c == '{' || c == '}') {
      finish(c);
    } else if (c == ':' && current.find_first_of(" \t") == std::string::npos) {
      finish(':');
    } else {
      current += c;
    }
  }
  return statements;
}

std::vector<std::string> SplitOperands(std::string_view text) {
  std::vector<std::string> operands;
  std::string current;
  int depth = 0;
  for (char c : text) {
    if (c == '{' || c == '[') ++depth;
    if (c == '}' || c == ']') --depth;
    if (c == ',' && depth == 0) {
      operands.push_back(Trim(current));
      current.clear();
    } else {
      current += c;
    }
  }
  if (!Trim(current).empty()) operands.push_back(Trim(current));
  return operands;
}

}  // namespace ptxsim
