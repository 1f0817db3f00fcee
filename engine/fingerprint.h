// Tells the weights of one model from those of another, for files that were made for one of them.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "engine/checkpoint.h"

namespace skim {

// SHA-256, in hexadecimal, of every tensor in the order of their names: a line "NAME [SHAPE]\n",
// and of its bytes as stored the first and the last 4096. Training moves all of a tensor, so this
// reads little of a large model. tools/calibrate/predictor_file.py computes the same.
absl::StatusOr<std::string> Fingerprint(const Checkpoint& checkpoint);

}  // namespace skim
