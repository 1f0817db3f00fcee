#include "cli/generate.h"

#include <google/protobuf/util/json_util.h>

#include <iostream>

#include "base/status_macros.h"
#include "cli/interrupts.h"

namespace skim {

GenerateCommand::GenerateCommand(CLI::App* app) {
  app->add_option("prompt", prompt_, "The prompt; standard input if not given");
  sampling_.Register(app);
  app->add_option("-n,--n", choices_, "Number of choices");
  app->add_option("--logprobs", logprobs_, "Report each token's and the K best (with --json)");
  app->add_flag("--prompt-logprobs", prompt_logprobs_, "The same for the prompt (with --json)");
  app->add_flag("--parse-special", parse_special_,
                "Let \"<|...|>\" in the prompt be control tokens");
  app->add_flag("--json", json_, "Print each message of the stream as one line of JSON");
  app->add_flag("--stats", stats_, "Print usage and timings to stderr");
}

absl::StatusOr<v1::GenerateRequest> GenerateCommand::MakeRequest() const {
  if ((logprobs_ || prompt_logprobs_) && !json_) {
    return absl::InvalidArgumentError("--logprobs and --prompt-logprobs are only shown by --json");
  }
  v1::GenerateRequest request;
  request.set_text(prompt_ ? *prompt_ : ReadStdin());
  if (parse_special_) request.set_parse_special_tokens(true);
  SKIM_RETURN_IF_ERROR(sampling_.Fill(&request));
  if (choices_) request.mutable_sampling()->set_n(*choices_);
  if (logprobs_) request.mutable_output()->set_logprobs(*logprobs_);
  if (prompt_logprobs_) request.mutable_output()->set_prompt_logprobs(true);
  return request;
}

void GenerateCommand::Show(const v1::GenerateResponse& response, TextOutput* output) {
  if (json_) {
    std::string line;
    google::protobuf::util::JsonPrintOptions options;
    options.preserve_proto_field_names = true;
    // Cannot fail: the message has just been parsed from the wire.
    (void)google::protobuf::util::MessageToJsonString(response, &line, options);
    std::cout << line << std::endl;
  } else if (response.has_delta() && response.index() == 0) {
    output->Write(response.delta().text());
  } else if (response.has_delta()) {
    held_back_[response.index()] += response.delta().text();
  }
  if (stats_ && response.has_final()) {
    output->EndLine();
    std::cerr << "choice " << response.index() << ": " << Describe(response.final()) << std::endl;
  }
}

ExitCode GenerateCommand::Run(const ConnectionOptions& options) {
  const auto request = MakeRequest();
  if (!request.ok()) return ComplainAboutFlags(request.status());
  Interrupts interrupts([] {});
  const auto connection = Connection::Open(options);
  if (!connection.ok()) return ComplainAboutFlags(connection.status());

  grpc::ClientContext context;
  (*connection)->Prepare(&context);
  Interrupts::Scope scope(&interrupts, &context);
  const auto reader = (*connection)->stub().Generate(&context, *request);
  TextOutput output;
  v1::GenerateResponse response;
  while (reader->Read(&response)) Show(response, &output);
  const grpc::Status status = reader->Finish();
  output.EndLine();
  for (const auto& [index, text] : held_back_) {
    output.Write("--- choice " + std::to_string(index) + "\n" + text);
    output.EndLine();
  }
  if (scope.interrupted()) return kExitInterrupted;
  return status.ok() ? kExitOk : Complain(status, options.server);
}

}  // namespace skim
