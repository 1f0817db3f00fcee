#include "server/trace_context.h"

#include <algorithm>

namespace skim {
namespace {

// version-trace-parent-flags
constexpr size_t kTrace = 3, kTraceDigits = 32;
constexpr size_t kParent = 36, kParentDigits = 16;
constexpr size_t kFlags = 53;
constexpr size_t kSize = 55;

bool IsHex(std::string_view text) {
  return std::ranges::all_of(
      text, [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

bool IsZero(std::string_view text) { return text.find_first_not_of('0') == text.npos; }

}  // namespace

std::string TraceIdOf(std::string_view traceparent) {
  if (traceparent.size() < kSize) return "";
  const std::string_view version = traceparent.substr(0, 2);
  const std::string_view trace = traceparent.substr(kTrace, kTraceDigits);
  const std::string_view parent = traceparent.substr(kParent, kParentDigits);
  const std::string_view rest = traceparent.substr(kSize);
  const bool separated = traceparent[kTrace - 1] == '-' && traceparent[kParent - 1] == '-' &&
                         traceparent[kFlags - 1] == '-';
  const bool ends = rest.empty() || (version != "00" && rest.front() == '-');
  const bool hex =
      IsHex(version) && IsHex(trace) && IsHex(parent) && IsHex(traceparent.substr(kFlags, 2));
  if (!separated || !ends || !hex || version == "ff" || IsZero(trace) || IsZero(parent)) return "";
  return std::string(trace);
}

}  // namespace skim
