#include "server/rpc_server.h"

#include <chrono>
#include <fstream>
#include <sstream>
#include <utility>

#include "base/status_macros.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/resource_quota.h"
#include "grpcpp/server_builder.h"

namespace skim {
namespace {

constexpr char kLivenessName[] = "liveness";

// Clients and proxies may ping every 10 s with or without a call; a little less is allowed
// so that a punctual one is never early.
constexpr int kMinPingIntervalMs = 9'000;
// How the server notices that a client has vanished without a word.
constexpr int kKeepaliveTimeMs = 30'000;
constexpr int kKeepaliveTimeoutMs = 20'000;
constexpr int kMaxMetadataBytes = 16 << 10;
constexpr int kMaxStreamsPerConnection = 1024;
constexpr size_t kTransportBytes = size_t{1} << 30;

absl::StatusOr<std::string> ReadFile(const char* flag, const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (!file || !(text << file.rdbuf())) {
    return absl::NotFoundError(std::string(flag) + ": cannot read " + path);
  }
  if (text.str().find("-----BEGIN ") == std::string::npos) {
    return absl::InvalidArgumentError(std::string(flag) + ": " + path + " is not a PEM file");
  }
  return text.str();
}

void LimitTransport(const RpcServerOptions& options, grpc::ServerBuilder* builder) {
  builder->SetMaxReceiveMessageSize(options.max_message_bytes);
  builder->AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, kMaxMetadataBytes);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxStreamsPerConnection);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                              kMinPingIntervalMs);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveTimeMs);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  // Two daemons on one port would share its connections without a word.
  builder->AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  grpc::ResourceQuota quota("skimd");
  quota.Resize(kTransportBytes);
  builder->SetResourceQuota(quota);
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeCredentials(
    const std::string& cert_file, const std::string& key_file, const std::string& client_ca_file) {
  if (cert_file.empty()) return grpc::InsecureServerCredentials();
  grpc::SslServerCredentialsOptions options;
  if (!client_ca_file.empty()) {
    options.client_certificate_request = GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY;
    SKIM_ASSIGN_OR_RETURN(options.pem_root_certs, ReadFile("tls-client-ca", client_ca_file));
  }
  auto& pair = options.pem_key_cert_pairs.emplace_back();
  SKIM_ASSIGN_OR_RETURN(pair.cert_chain, ReadFile("tls-cert", cert_file));
  SKIM_ASSIGN_OR_RETURN(pair.private_key, ReadFile("tls-key", key_file));
  return grpc::SslServerCredentials(options);
}

absl::StatusOr<std::unique_ptr<RpcServer>> RpcServer::Start(const RpcServerOptions& options,
                                                            PortServices services) {
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  LimitTransport(options, &builder);
  int port = 0;
  builder.AddListeningPort(options.listen.ToString(), options.credentials, &port);
  for (grpc::Service* service : services.services) builder.RegisterService(service);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr || port <= 0) {
    return absl::FailedPreconditionError(std::string(options.flag) + ": cannot serve gRPC on " +
                                         options.listen.ToString() +
                                         " (address in use, unknown or not allowed; or the "
                                         "TLS key does not fit its certificate)");
  }
  ListenAddress address{options.listen.host, static_cast<uint16_t>(port)};
  std::unique_ptr<RpcServer> out(
      new RpcServer(std::move(server), std::move(address), std::move(services.health_names)));
  out->SetServing(false);
  out->SetAlive(true);
  return out;
}

RpcServer::RpcServer(std::unique_ptr<grpc::Server> server, ListenAddress address,
                     std::vector<std::string> health_names)
    : server_(std::move(server)),
      address_(std::move(address)),
      health_names_(std::move(health_names)) {}

RpcServer::~RpcServer() { Shutdown(0); }

void RpcServer::SetServing(bool serving) {
  grpc::HealthCheckServiceInterface* health = server_->GetHealthCheckService();
  health->SetServingStatus("", serving);
  for (const std::string& name : health_names_) health->SetServingStatus(name, serving);
}

void RpcServer::SetAlive(bool alive) {
  server_->GetHealthCheckService()->SetServingStatus(kLivenessName, alive);
}

void RpcServer::Shutdown(Micros grace) {
  server_->Shutdown(std::chrono::system_clock::now() + std::chrono::microseconds(grace));
  server_->Wait();
}

}  // namespace skim
