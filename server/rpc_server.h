// A gRPC server around services: address, TLS, limits on what clients may do to the
// transport, health and reflection.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/types.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/impl/service_type.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server.h"
#include "server/listen_address.h"

namespace skim {

struct RpcServerOptions {
  const char* flag = "listen";  // that gave the address; named in errors
  ListenAddress listen;
  int32_t max_message_bytes = 4 << 20;
  std::shared_ptr<grpc::ServerCredentials> credentials;
};

// What one port serves. Borrowed: the services outlive the server.
struct PortServices {
  std::vector<grpc::Service*> services;
  std::vector<std::string> health_names;  // which stand for readiness, beside ""
};

// PEM files -> credentials; plaintext without a certificate. Errors name the flag.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeCredentials(
    const std::string& cert_file, const std::string& key_file, const std::string& client_ca_file);

class RpcServer {
 public:
  // Listens and serves; health says NOT_SERVING but for "liveness".
  static absl::StatusOr<std::unique_ptr<RpcServer>> Start(const RpcServerOptions& options,
                                                          PortServices services);
  ~RpcServer();

  const ListenAddress& address() const { return address_; }

  // Any thread. "" and the names of the services: readiness.
  void SetServing(bool serving);
  // "liveness": stays up while draining, goes down on a fault that only a restart mends.
  void SetAlive(bool alive);

  // Ends what is left after `grace` and waits for every callback. Idempotent.
  void Shutdown(Micros grace);

 private:
  RpcServer(std::unique_ptr<grpc::Server> server, ListenAddress address,
            std::vector<std::string> health_names);

  std::unique_ptr<grpc::Server> server_;
  ListenAddress address_;
  std::vector<std::string> health_names_;
};

}  // namespace skim
