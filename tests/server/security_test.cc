// Who is let in: bearer tokens on every Inference method, TLS and client certificates.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <functional>
#include <sstream>

#include "grpc/health/v1/health.grpc.pb.h"
#include "tests/temp_dir.h"
#include "tests/server/test_server.h"

namespace skim {
namespace {

using grpc::StatusCode;

std::string Read(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

TestServerOptions WithTokens(const TempDir& directory, const std::string& file_text) {
  TestServerOptions options;
  auto auth = BearerAuth::FromFile(directory.Write("tokens", file_text));
  EXPECT_TRUE(auth.ok()) << auth.status();
  options.stack.auth = *std::move(auth);
  return options;
}

TEST(BearerTokens, GuardEveryInferenceMethodButNotHealth) {
  TempDir directory;
  TestServer server(WithTokens(directory, "# staff\nsecret-one\n\nsecret-two\r\n"));
  using Call = std::function<grpc::Status(grpc::ClientContext*)>;
  const std::map<std::string, Call> calls = {
      {"Generate",
       [&](auto* context) { return server.Generate(TextRequest("hi"), context).status; }},
      {"Tokenize",
       [&](auto* context) {
         v1::TokenizeRequest request;
         request.set_text("hi");
         v1::TokenizeResponse response;
         return server.stub().Tokenize(context, request, &response);
       }},
      {"Detokenize",
       [&](auto* context) {
         v1::DetokenizeResponse response;
         return server.stub().Detokenize(context, {}, &response);
       }},
      {"GetModel",
       [&](auto* context) {
         v1::GetModelResponse response;
         return server.stub().GetModel(context, {}, &response);
       }},
  };
  // A method that is added later must be added here, too.
  const auto* service = v1::GenerateRequest::descriptor()->file()->service(0);
  ASSERT_EQ(static_cast<size_t>(service->method_count()), calls.size());

  const std::vector<std::string> refused = {"",
                                            "secret-one",
                                            "Bearer ",
                                            "Bearer secret",
                                            "Bearer secret-one2",
                                            "Bearer # staff",
                                            "Basic secret-one"};
  for (const auto& [name, call] : calls) {
    for (const std::string& header : refused) {
      grpc::ClientContext context;
      if (!header.empty()) context.AddMetadata("authorization", header);
      EXPECT_EQ(call(&context).error_code(), StatusCode::UNAUTHENTICATED) << name << header;
    }
    for (const char* header : {"Bearer secret-one", "Bearer secret-two"}) {
      grpc::ClientContext context;
      context.AddMetadata("authorization", header);
      const grpc::Status status = call(&context);
      EXPECT_TRUE(status.ok()) << name << ": " << status.error_message();
    }
  }
  grpc::ClientContext context;
  grpc::health::v1::HealthCheckResponse health;
  EXPECT_TRUE(
      grpc::health::v1::Health::NewStub(server.NewChannel())->Check(&context, {}, &health).ok());
}

TEST(BearerTokens, RefuseAFileWithoutATokenInsteadOfOpeningTheServer) {
  TempDir directory;
  EXPECT_FALSE(BearerAuth::FromFile(directory.Write("tokens", "\n# none\n")).ok());
  EXPECT_FALSE(BearerAuth::FromFile(directory.path() + "/missing").ok());
}

class TlsTest : public testing::Test {
 protected:
  void SetUp() override {
    MakeAuthority("ca");
    MakeAuthority("stranger");
    MakeCertificate("server", "ca");
    MakeCertificate("client", "ca");
    MakeCertificate("intruder", "stranger");
  }

  std::string File(const std::string& name) const { return directory_.path() + "/" + name; }

  void Openssl(const std::string& arguments) const {
    const std::string command = "openssl " + arguments + " 2>/dev/null";
    ASSERT_EQ(std::system(command.c_str()), 0) << command;
  }
  void MakeAuthority(const std::string& name) const {
    Openssl("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=" +
            name + " -keyout " + File(name + ".key") + " -out " + File(name + ".pem"));
  }
  void MakeCertificate(const std::string& name, const std::string& authority) const {
    const std::string names =
        directory_.Write("names", "subjectAltName=DNS:localhost,IP:127.0.0.1");
    Openssl("req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=" + name +
            " -keyout " + File(name + ".key") + " -out " + File(name + ".csr"));
    Openssl("x509 -req -days 2 -CAcreateserial -in " + File(name + ".csr") + " -CA " +
            File(authority + ".pem") + " -CAkey " + File(authority + ".key") + " -extfile " +
            names + " -out " + File(name + ".pem"));
  }

  TestServerOptions Options(const std::string& client_ca) const {
    TestServerOptions options;
    auto credentials = MakeCredentials(File("server.pem"), File("server.key"), client_ca);
    EXPECT_TRUE(credentials.ok()) << credentials.status();
    options.stack.rpc.credentials = *credentials;
    return options;
  }

  // Calls GetModel as `client` (empty: without a certificate), trusting `authority`.
  bool Reaches(const TestServer& server, const std::string& authority,
               const std::string& client) const {
    grpc::SslCredentialsOptions options;
    options.pem_root_certs = Read(File(authority + ".pem"));
    if (!client.empty()) {
      options.pem_private_key = Read(File(client + ".key"));
      options.pem_cert_chain = Read(File(client + ".pem"));
    }
    const auto stub = v1::Inference::NewStub(server.NewChannel(grpc::SslCredentials(options)));
    grpc::ClientContext context;
    v1::GetModelResponse response;
    return stub->GetModel(&context, {}, &response).ok();
  }

  TempDir directory_;
};

TEST_F(TlsTest, ServesClientsThatTrustTheCertificate) {
  TestServer server(Options(""));
  EXPECT_TRUE(Reaches(server, "ca", ""));
  EXPECT_FALSE(Reaches(server, "stranger", ""));
  EXPECT_FALSE(server.Generate(TextRequest("plaintext")).status.ok());
}

TEST_F(TlsTest, AsksForAClientCertificateOfTheRightAuthority) {
  TestServer server(Options(File("ca.pem")));
  EXPECT_TRUE(Reaches(server, "ca", "client"));
  EXPECT_FALSE(Reaches(server, "ca", ""));
  EXPECT_FALSE(Reaches(server, "ca", "intruder"));
}

TEST_F(TlsTest, NamesTheFlagOfAFileThatIsNoCertificate) {
  const auto missing = MakeCredentials(File("none.pem"), File("server.key"), "");
  EXPECT_NE(missing.status().message().find("tls-cert"), absl::string_view::npos);
  const auto no_pem = MakeCredentials(File("server.pem"), directory_.Write("junk", "x"), "");
  EXPECT_NE(no_pem.status().message().find("tls-key"), absl::string_view::npos);
}

}  // namespace
}  // namespace skim
