// skim: the command-line client of skimd.
#include <CLI/CLI.hpp>

#include "cli/chat.h"
#include "cli/connection_flags.h"
#include "cli/generate.h"
#include "cli/model.h"
#include "cli/sweep.h"
#include "cli/tokenize.h"

namespace {

constexpr char kExitCodes[] =
    "Exit codes: 0 done, 1 failed, 2 wrong flags or refused by the server, 3 no server or not "
    "ready,\n4 server full, 5 --timeout passed, 6 not allowed in, 130 interrupted.";

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Talks to skimd, the Skim daemon.");
  app.footer(kExitCodes);
  app.require_subcommand(1);
  app.fallthrough();  // the connection's flags may stand on either side of the command
  skim::ConnectionOptions options;
  skim::RegisterConnectionFlags(&app, &options);

  skim::GenerateCommand generate(
      app.add_subcommand("generate", "Continue a prompt, streaming the text as it arrives"));
  skim::ChatCommand chat(
      app.add_subcommand("chat", "Talk to the model; Ctrl-C cancels the answer, Ctrl-D ends"));
  app.add_subcommand("model", "Show what the daemon serves");
  skim::ModelCommand model;
  skim::SweepCommand sweep(
      app.add_subcommand("sweep", "Compare drafters and draft lengths on a file of prompts"));
  skim::TokenizeCommand tokenize(
      app.add_subcommand("tokenize", "Show how the model's tokenizer cuts a text"));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? skim::kExitOk : skim::kExitBadRequest;
  }
  const std::pair<const char*, skim::Command*> commands[] = {{"generate", &generate},
                                                             {"chat", &chat},
                                                             {"model", &model},
                                                             {"sweep", &sweep},
                                                             {"tokenize", &tokenize}};
  for (const auto& [name, command] : commands) {
    if (app.got_subcommand(name)) return command->Run(options);
  }
  return skim::kExitBadRequest;
}
