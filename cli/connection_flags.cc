#include "cli/connection_flags.h"

namespace skim {

void RegisterConnectionFlags(CLI::App* app, ConnectionOptions* options) {
  app->add_option("--server", options->server, "HOST:PORT of skimd")->capture_default_str();
  app->add_option("--tls-ca", options->tls_ca, "Use TLS and trust the authority in this PEM file");
  app->add_option("--tls-cert", options->tls_cert, "Our certificate (PEM), for mutual TLS");
  app->add_option("--tls-key", options->tls_key, "The certificate's private key (PEM)");
  app->add_option("--token-file", options->token_file, "File whose first line is our bearer token");
  app->add_option("--timeout", options->timeout_s, "Seconds a call may take (0 = no limit)")
      ->check(CLI::Range(0.0, 86400.0));
}

}  // namespace skim
