// W3C trace context, as far as a server without spans of its own needs it: the trace that a call is
// part of, so that its log line can be found from the trace.
#pragma once

#include <string>
#include <string_view>

namespace skim {

// The trace id in a `traceparent`, 32 lower-case hex digits; empty if that is not well-formed.
// Versions above 00 may have more behind the flags (W3C Trace Context, section 3.2).
std::string TraceIdOf(std::string_view traceparent);

}  // namespace skim
