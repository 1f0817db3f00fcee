// A channel to one daemon, with whatever it takes to be let in.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "skim/v1/inference.grpc.pb.h"

namespace skim {

struct ConnectionOptions {
  std::string server = "127.0.0.1:50051";
  std::string tls_ca;    // PEM file of the authority to trust; any tls_* turns TLS on
  std::string tls_cert;  // with tls_key: our own certificate (mTLS)
  std::string tls_key;
  std::string token_file;  // its first line is sent as a bearer token
  double timeout_s = 0;    // of each call; 0 = none
};

class Connection {
 public:
  // Reads the files; does not wait for the server, the first call finds out. Errors name
  // the flag. `arguments` are further channel settings.
  static absl::StatusOr<std::unique_ptr<Connection>> Open(const ConnectionOptions& options,
                                                          grpc::ChannelArguments arguments = {});

  v1::Inference::Stub& stub() const { return *stub_; }

  // Puts the token and the deadline on a call that is about to start.
  void Prepare(grpc::ClientContext* context) const;

 private:
  Connection(std::shared_ptr<grpc::Channel> channel, std::string authorization, double timeout_s);

  std::unique_ptr<v1::Inference::Stub> stub_;
  std::string authorization_;
  double timeout_s_;
};

}  // namespace skim
