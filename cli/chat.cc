#include "cli/chat.h"

#include <unistd.h>

#include <iostream>

namespace skim {
namespace {

constexpr std::string_view kPrompt = "> ";

void AddMessage(v1::Chat* chat, const std::string& role, const std::string& content) {
  v1::Message* message = chat->add_messages();
  message->set_role(role);
  message->set_content(content);
}

}  // namespace

ChatCommand::ChatCommand(CLI::App* app) {
  app->add_option("--system", system_, "What the model is told before the conversation");
  sampling_.Register(app);
  app->add_flag("--stats", stats_, "Print usage and timings of each answer to stderr");
}

ExitCode ChatCommand::Run(const ConnectionOptions& options) {
  if (const absl::Status status = sampling_.Fill(&request_); !status.ok()) {
    return ComplainAboutFlags(status);
  }
  const bool interactive = isatty(STDIN_FILENO) != 0;
  Interrupts interrupts([interactive] {
    if (!interactive) _exit(kExitInterrupted);
    // The terminal has already dropped the half-typed line.
    std::cerr << "\n(Ctrl-D ends)\n" << kPrompt << std::flush;
  });
  const auto connection = Connection::Open(options);
  if (!connection.ok()) return ComplainAboutFlags(connection.status());

  if (system_) AddMessage(request_.mutable_chat(), "system", *system_);
  std::string line;
  while (true) {
    if (interactive) std::cerr << kPrompt << std::flush;
    if (!std::getline(std::cin, line)) break;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    AddMessage(request_.mutable_chat(), "user", line);
    const ExitCode code = Answer(**connection, &interrupts, options.server);
    // A person can go on after a failure; a script must see it.
    if (code != kExitOk && !interactive) return code;
  }
  if (interactive) std::cerr << std::endl;
  return kExitOk;
}

ExitCode ChatCommand::Answer(const Connection& connection, Interrupts* interrupts,
                             std::string_view server) {
  grpc::ClientContext context;
  connection.Prepare(&context);
  Interrupts::Scope scope(interrupts, &context);
  const auto reader = connection.stub().Generate(&context, request_);
  TextOutput output;
  std::string answer;
  std::string stats;
  v1::GenerateResponse response;
  while (reader->Read(&response)) {
    if (response.has_delta()) {
      answer += response.delta().text();
      output.Write(response.delta().text());
    } else if (response.has_final()) {
      stats = Describe(response.final());
    }
  }
  const grpc::Status status = reader->Finish();
  output.EndLine();
  if (!answer.empty() && (status.ok() || scope.interrupted())) {
    // An interrupted answer stays as far as it came: the next turn may refer to it.
    AddMessage(request_.mutable_chat(), "assistant", answer);
  } else {
    request_.mutable_chat()->mutable_messages()->RemoveLast();
  }
  if (scope.interrupted()) return kExitInterrupted;
  if (!status.ok()) return Complain(status, server);
  if (stats_) std::cerr << stats << std::endl;
  return kExitOk;
}

}  // namespace skim
