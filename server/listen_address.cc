#include "server/listen_address.h"

#include <charconv>

namespace skim {

absl::StatusOr<ListenAddress> ParseListenAddress(const std::string& text) {
  const size_t colon = text.rfind(':');
  ListenAddress address;
  address.host = text.substr(0, colon);
  const bool bare_ipv6 = address.host.find(':') != std::string::npos && address.host[0] != '[';
  if (colon == std::string::npos || address.host.empty() || bare_ipv6) {
    return absl::InvalidArgumentError("\"" + text + "\" is not HOST:PORT");
  }
  const char* begin = text.data() + colon + 1;
  const char* end = text.data() + text.size();
  const auto [parsed, error] = std::from_chars(begin, end, address.port);
  if (error != std::errc() || parsed != end) {
    return absl::InvalidArgumentError("\"" + text + "\": the port must be 0 to 65535");
  }
  return address;
}

}  // namespace skim
