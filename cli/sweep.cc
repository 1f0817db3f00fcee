#include "cli/sweep.h"

#include <algorithm>
#include <fstream>
#include <iostream>

#include "absl/strings/str_cat.h"
#include "cli/interrupts.h"
#include "cli/progress_bar.h"
#include "cli/prompt_file.h"

namespace skim {
namespace {

// The daemon will not do this, whatever the prompt; all else ends the sweep.
bool IsRefusal(const grpc::Status& status) {
  return status.error_code() == grpc::StatusCode::INVALID_ARGUMENT ||
         status.error_code() == grpc::StatusCode::UNIMPLEMENTED;
}

}  // namespace

SweepCommand::SweepCommand(CLI::App* app) {
  const auto add_list = [app](const char* name, auto* values, const char* help) {
    return app->add_option(name, *values, help)->delimiter(',')->allow_extra_args(false);
  };
  app->add_option("prompts", prompt_file_, "File of prompts: {\"prompt\": \"...\"} a line")
      ->required();
  add_list("--drafters", &drafters_,
           "As of --speculation; default: all that the daemon has, with --exits and formats");
  add_list("--exits", &exits_, "Exit layers to draft from");
  add_list("--draft-tokens", &draft_tokens_, "Drafts a round")->capture_default_str();
  app->add_option("--max-tokens", max_tokens_, "Of an answer")
      ->check(CLI::Range(2, 1'000'000))
      ->capture_default_str();
  app->add_option("--limit", most_prompts_, "Prompts of the file, at most")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  app->add_flag("--raw", raw_, "Continue the prompts, without the chat template");
  app->add_option("--json", json_file_, "Write the figures there, for ./run eval plot-sweep");
}

v1::GenerateRequest SweepCommand::RequestOf(const std::string& prompt, const SweepSetting& setting,
                                            bool chat) const {
  v1::GenerateRequest request;
  if (chat) {
    v1::Message* message = request.mutable_chat()->add_messages();
    message->set_role("user");
    message->set_content(prompt);
  } else {
    request.set_text(prompt);
  }
  request.mutable_sampling()->set_temperature(0);
  request.mutable_sampling()->set_max_tokens(max_tokens_);
  *request.mutable_speculation() = setting.speculation;
  return request;
}

absl::Status SweepCommand::WriteJson(const nlohmann::ordered_json& value) const {
  std::ofstream file(json_file_);
  file << value.dump(2) << "\n";
  file.close();
  if (!file) return absl::InvalidArgumentError("--json: cannot write " + json_file_);
  return absl::OkStatus();
}

ExitCode SweepCommand::Run(const ConnectionOptions& options) {
  auto prompts = ReadPrompts(prompt_file_);
  if (!prompts.ok()) return ComplainAboutFlags(prompts.status());
  if (prompts->size() > most_prompts_) prompts->resize(most_prompts_);
  Interrupts interrupts([] {});
  const auto connection = Connection::Open(options);
  if (!connection.ok()) return ComplainAboutFlags(connection.status());
  grpc::ClientContext asking;
  (*connection)->Prepare(&asking);
  v1::GetModelResponse model;
  const grpc::Status asked = (*connection)->stub().GetModel(&asking, {}, &model);
  if (!asked.ok()) return Complain(asked, options.server);
  const auto settings = SweepSettings(model, drafters_, exits_, draft_tokens_);
  if (!settings.ok()) return ComplainAboutFlags(settings.status());

  std::vector<SweepResult> results(settings->size());
  {
    ProgressBar bar;
    const double calls = static_cast<double>(prompts->size() * settings->size());
    double done = 0;
    // Settings take turns, so that a machine which slows down favours none.
    for (const std::string& prompt : *prompts) {
      for (size_t i = 0; i < settings->size(); ++i) {
        bar.Show(done++ / calls, (*settings)[i].drafter);
        if (!results[i].refused.empty()) continue;
        grpc::ClientContext context;
        (*connection)->Prepare(&context);
        Interrupts::Scope scope(&interrupts, &context);
        const auto reader = (*connection)
                                ->stub()
                                .Generate(&context, RequestOf(prompt, (*settings)[i],
                                                              model.has_chat_template() && !raw_));
        v1::GenerateResponse response;
        while (reader->Read(&response)) {
          if (response.has_final()) results[i].Add(response.final());
        }
        const grpc::Status status = reader->Finish();
        if (scope.interrupted()) return kExitInterrupted;
        // "off" is refused for what the prompt is: then nothing can be compared.
        if (IsRefusal(status) && i > 0) {
          results[i] = {};
          results[i].refused = Explain(status, options.server);
        } else if (!status.ok()) {
          return Complain(status, options.server);
        }
      }
    }
  }
  std::cout << SweepTable(*settings, results) << std::flush;
  if (json_file_.empty()) return kExitOk;
  const absl::Status written =
      WriteJson(SweepJson(model.name(), prompts->size(), *settings, results));
  return written.ok() ? kExitOk : ComplainAboutFlags(written);
}

}  // namespace skim
