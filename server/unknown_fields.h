// A newer client may set fields that this server has never heard of. An option that is not
// honoured is refused, never ignored, and that holds for these as well.
#pragma once

#include "absl/status/status.h"
#include "google/protobuf/message.h"

namespace skim {

// UNIMPLEMENTED naming the message and the number of the first unknown field, at any depth.
absl::Status CheckNoUnknownFields(const google::protobuf::Message& message);

}  // namespace skim
