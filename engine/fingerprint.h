// Tells the weights of one model from those of another, for files that were made for one of them:
// their metadata says `version` 1 and `fingerprint`.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "engine/checkpoint.h"
#include "engine/safetensors.h"

namespace skim {

// SHA-256, in hexadecimal, of every tensor in the order of their names: a line "NAME [SHAPE]\n",
// and of its bytes as stored the first and the last 4096. Training moves all of a tensor, so this
// reads little of a large model. tools/calibrate/fingerprint.py computes the same.
absl::StatusOr<std::string> Fingerprint(const Checkpoint& checkpoint);

// INVALID_ARGUMENT, naming the file and the `command` that makes it, if `file` is of another
// version or was made for other weights than those of `checkpoint`.
absl::Status CheckMadeFor(const Checkpoint& checkpoint, const SafetensorsFile& file,
                          const std::string& command);

}  // namespace skim
