// --speculation as a command line has it: "off", "auto", "lookup", "auto:shared", "lookup:shared",
// "head", "draft-model", or "self" and, in this order, what it has of ":LAYERS", ":FORMAT" and
// ":skip=A+B", as in self:8:int8.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "skim/v1/inference.pb.h"

namespace skim {

inline constexpr char kSpeculationHelp[] =
    "Guess tokens ahead, for speed; the text stays the same: off, auto (whatever pays at each "
    "step), lookup (in the request's own text), either with earlier answers of the same tenant as "
    "in lookup:shared, head (by the model's draft head), draft-model (by the daemon's second "
    "model), or self, by the model's first layers or a "
    "smaller weight format, as in self:int8, self:8 or self:8:int8, or without some of its layers, "
    "as in self:skip=4+9";

// Errors name the flag.
absl::Status ParseSpeculation(const std::string& text, v1::Speculation* speculation);

}  // namespace skim
