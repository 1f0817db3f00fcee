// The prompts that `skim-bench speculate` sends: none is asked for twice in a set.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace skim {

// "templated": answers repeat the prompt but for a field, as when code or records are edited.
// "chat": short questions, answered in the model's own words. Empty if there is no such text.
std::vector<std::string> SpeculateText(const std::string& name);

}  // namespace skim
