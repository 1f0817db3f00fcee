#include "server/bearer_auth.h"

#include <fstream>

namespace skim {
namespace {

constexpr std::string_view kScheme = "Bearer ";

// Time depends on the lengths only, never on where the strings differ.
bool EqualInConstantTime(std::string_view given, std::string_view wanted) {
  unsigned difference = given.size() == wanted.size() ? 0 : 1;
  for (size_t i = 0; i < given.size(); ++i) {
    const char other = i < wanted.size() ? wanted[i] : 0;
    difference |= static_cast<unsigned char>(given[i] ^ other);
  }
  return difference == 0;
}

}  // namespace

absl::StatusOr<BearerAuth> BearerAuth::FromFile(const std::string& path) {
  std::ifstream file(path);
  if (!file) return absl::NotFoundError("auth-token-file: cannot read " + path);
  std::vector<std::string> tokens;
  for (std::string line; std::getline(file, line);) {
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.pop_back();
    if (!line.empty() && line.front() != '#') tokens.push_back(line);
  }
  if (tokens.empty()) {
    return absl::InvalidArgumentError("auth-token-file: " + path + " holds no token");
  }
  return BearerAuth(std::move(tokens));
}

absl::Status BearerAuth::Check(const grpc::CallbackServerContext& context) const {
  if (tokens_.empty()) return absl::OkStatus();
  const auto [begin, end] = context.client_metadata().equal_range("authorization");
  if (begin != end && std::next(begin) == end) {
    const std::string_view value(begin->second.data(), begin->second.size());
    if (value.starts_with(kScheme) && Knows(value.substr(kScheme.size()))) {
      return absl::OkStatus();
    }
  }
  return absl::UnauthenticatedError("a valid bearer token is needed in `authorization`");
}

bool BearerAuth::Knows(std::string_view token) const {
  bool known = false;
  for (const std::string& wanted : tokens_) known |= EqualInConstantTime(token, wanted);
  return known;
}

}  // namespace skim
