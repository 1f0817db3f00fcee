#include "loadtest/speculate_texts.h"

#include "absl/strings/str_cat.h"

namespace skim {
namespace {

constexpr const char* kChat[] = {
    "Why is the sky blue? Answer in three sentences.",
    "Explain to a child how bees make honey.",
    "Give me five tips for sleeping better.",
    "What is the difference between weather and climate?",
    "Write a short poem about a lighthouse.",
    "How does a bicycle stay upright?",
    "Describe a walk through a forest in autumn.",
    "What should I pack for a weekend by the sea?",
    "Tell me a short story about a clockmaker and a crow.",
    "How do vaccines protect people?",
    "What makes bread rise? Explain briefly.",
    "Name three good habits for learning a language and say why they help.",
    "Why do leaves change their colour?",
    "How can a small shop win more customers?",
    "Explain what a database index is and when it helps.",
    "Describe your ideal breakfast in a few sentences.",
};

struct Record {
  const char *name, *city, *fruit;
  int number;
};
constexpr Record kRecords[] = {
    {"Anna", "Lisbon", "apples", 12},  {"Bruno", "Oslo", "pears", 35},
    {"Clara", "Vienna", "plums", 7},   {"David", "Turin", "cherries", 48},
    {"Edith", "Bergen", "lemons", 21}, {"Felix", "Ghent", "grapes", 16},
    {"Greta", "Porto", "figs", 53},    {"Hugo", "Basel", "melons", 9},
};
constexpr size_t kKinds = 4;  // of documents
constexpr size_t kTemplated = kKinds * std::size(kRecords) / 2;

const Record& At(size_t i) { return kRecords[i % std::size(kRecords)]; }

std::string Document(size_t kind, size_t first) {
  std::string text;
  for (size_t i = first; i < first + 4; ++i) {
    const Record& r = At(i);
    if (kind == 0) {
      absl::StrAppend(&text, "- ", r.name, " from ", r.city, " ordered ", r.number, " boxes of ",
                      r.fruit, ".\n");
    } else if (kind == 1) {
      absl::StrAppend(&text, "{\"name\": \"", r.name, "\", \"city\": \"", r.city,
                      "\", \"boxes\": ", r.number, ", \"fruit\": \"", r.fruit, "\"}\n");
    } else if (kind == 2) {
      absl::StrAppend(&text, "def boxes_of_", r.fruit, "(orders):\n    total = ", r.number,
                      "\n    for order in orders:\n        if order.fruit == \"", r.fruit,
                      "\":\n            total += order.boxes\n    return total\n\n");
    } else {
      absl::StrAppend(&text, "| ", r.name, " | ", r.city, " | ", r.fruit, " | ", r.number, " |\n");
    }
  }
  return text;
}

std::string Templated(size_t i) {
  const size_t kind = i % kKinds, first = i / kKinds * 2 + kind;
  const Record& changed = At(first + 2);
  const std::string from =
      kind == 2 ? absl::StrCat("total = ", changed.number) : absl::StrCat(changed.number);
  const std::string to = kind == 2 ? "total = 0" : absl::StrCat(changed.number + 100);
  return absl::StrCat("Repeat the following text exactly, but write ", to, " instead of ", from,
                      ":\n\n", Document(kind, first));
}

}  // namespace

std::vector<std::string> SpeculateText(const std::string& name) {
  std::vector<std::string> prompts;
  if (name == "chat") prompts.assign(std::begin(kChat), std::end(kChat));
  if (name == "templated") {
    for (size_t i = 0; i < kTemplated; ++i) prompts.push_back(Templated(i));
  }
  return prompts;
}

}  // namespace skim
