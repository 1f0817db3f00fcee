// The last message of a choice, and the numbers in the log line that goes with it.
#pragma once

#include <string>

#include "base/types.h"
#include "engine/engine.h"
#include "scheduler/request.h"
#include "server/choice_output.h"
#include "skim/v1/inference.pb.h"

namespace skim {

// `arrival` is when the call came in and `last_token` when its last token was seen, both on
// the loop's clock. `finish` is not an error.
v1::Final BuildFinal(const Finish& finish, const ChoiceOutput& output, Micros arrival,
                     Micros last_token, const ModelInfo& model);

// "exact", "exact_too_short", "lazy".
const char* PrefillModeName(PrefillMode mode);

// "stop", "length", "time_limit", "cancelled": labels in metrics and log.
const char* ReasonName(v1::FinishReason reason);

}  // namespace skim
