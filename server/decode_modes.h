// Decode modes of pruned prompts, from here to the wire.
#pragma once

#include "engine/decode_mode.h"
#include "skim/v1/inference.pb.h"

namespace skim {

inline v1::PrefillPolicy::DecodeMode ToProto(DecodeMode mode) {
  switch (mode) {
    case DecodeMode::kStatic:
      return v1::PrefillPolicy::DECODE_MODE_STATIC;
    case DecodeMode::kLazy:
      return v1::PrefillPolicy::DECODE_MODE_LAZY;
    case DecodeMode::kStrict:
      return v1::PrefillPolicy::DECODE_MODE_STRICT;
    case DecodeMode::kPhantom:
      return v1::PrefillPolicy::DECODE_MODE_PHANTOM;
    case DecodeMode::kLate:
      return v1::PrefillPolicy::DECODE_MODE_LATE;
  }
  return v1::PrefillPolicy::DECODE_MODE_UNSPECIFIED;
}

}  // namespace skim
