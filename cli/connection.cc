#include "cli/connection.h"

#include <algorithm>
#include <chrono>
#include <fstream>
#include <iterator>
#include <utility>

#include "base/status_macros.h"

namespace skim {
namespace {

// A final message with the log-probabilities of a whole prompt is larger than gRPC's 4 MiB.
constexpr int kMaxMessageBytes = 256 << 20;
// Notices a dead peer in the middle of a long silence; the server allows pings every 10 s.
constexpr int kKeepaliveMs = 30'000;
constexpr int kKeepaliveTimeoutMs = 10'000;

absl::StatusOr<std::string> ReadFile(const std::string& flag, const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string content((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (!file || content.empty()) {
    return absl::InvalidArgumentError(flag + ": cannot read '" + path + "' or it is empty");
  }
  return content;
}

absl::StatusOr<std::string> ReadToken(const std::string& path) {
  SKIM_ASSIGN_OR_RETURN(std::string token, ReadFile("--token-file", path));
  token.resize(std::min(token.find_first_of("\r\n"), token.size()));
  for (const unsigned char c : token) {
    // Anything else would abort inside gRPC, or could smuggle a second header.
    if (c < 0x21 || c > 0x7e) {
      return absl::InvalidArgumentError("--token-file: the token has spaces or odd characters");
    }
  }
  if (token.empty()) return absl::InvalidArgumentError("--token-file: the first line is empty");
  return token;
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeCredentials(
    const ConnectionOptions& options) {
  if (options.tls_cert.empty() != options.tls_key.empty()) {
    return absl::InvalidArgumentError("--tls-cert and --tls-key go together");
  }
  if (options.tls_ca.empty() && options.tls_cert.empty()) {
    return grpc::InsecureChannelCredentials();
  }
  grpc::SslCredentialsOptions ssl;
  if (!options.tls_ca.empty()) {
    SKIM_ASSIGN_OR_RETURN(ssl.pem_root_certs, ReadFile("--tls-ca", options.tls_ca));
  }
  if (!options.tls_cert.empty()) {
    SKIM_ASSIGN_OR_RETURN(ssl.pem_cert_chain, ReadFile("--tls-cert", options.tls_cert));
    SKIM_ASSIGN_OR_RETURN(ssl.pem_private_key, ReadFile("--tls-key", options.tls_key));
  }
  return grpc::SslCredentials(ssl);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Connection>> Connection::Open(const ConnectionOptions& options,
                                                             grpc::ChannelArguments arguments) {
  SKIM_ASSIGN_OR_RETURN(auto credentials, MakeCredentials(options));
  std::string authorization;
  if (!options.token_file.empty()) {
    SKIM_ASSIGN_OR_RETURN(const std::string token, ReadToken(options.token_file));
    authorization = "Bearer " + token;
  }
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  // The daemon may be reached through a proxy of its own kind, never through the web's.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return std::unique_ptr<Connection>(
      new Connection(grpc::CreateCustomChannel(options.server, credentials, arguments),
                     std::move(authorization), options.timeout_s));
}

Connection::Connection(std::shared_ptr<grpc::Channel> channel, std::string authorization,
                       double timeout_s)
    : stub_(v1::Inference::NewStub(std::move(channel))),
      authorization_(std::move(authorization)),
      timeout_s_(timeout_s) {}

void Connection::Prepare(grpc::ClientContext* context) const {
  if (!authorization_.empty()) context->AddMetadata("authorization", authorization_);
  if (timeout_s_ > 0) {
    context->set_deadline(std::chrono::system_clock::now() +
                          std::chrono::milliseconds(static_cast<int64_t>(timeout_s_ * 1e3)));
  }
}

}  // namespace skim
