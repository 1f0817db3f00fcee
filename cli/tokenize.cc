#include "cli/tokenize.h"

#include <iostream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace skim {

TokenizeCommand::TokenizeCommand(CLI::App* app) {
  app->add_option("text", text_, "The text; standard input if not given");
  app->add_flag("--chat", chat_, "Take the text as a user's turn and apply the chat template");
  app->add_flag("--parse-special", parse_special_, "Let \"<|...|>\" in the text be control tokens");
  app->add_flag("--ids", ids_only_, "Print only the ids, on one line");
}

v1::TokenizeRequest TokenizeCommand::MakeRequest() const {
  v1::TokenizeRequest request;
  const std::string text = text_ ? *text_ : ReadStdin();
  if (chat_) {
    v1::Message* message = request.mutable_chat()->add_messages();
    message->set_role("user");
    message->set_content(text);
  } else {
    request.set_text(text);
  }
  if (parse_special_) request.set_parse_special_tokens(true);
  return request;
}

ExitCode TokenizeCommand::Run(const ConnectionOptions& options) {
  const v1::TokenizeRequest request = MakeRequest();
  const auto connection = Connection::Open(options);
  if (!connection.ok()) return ComplainAboutFlags(connection.status());
  grpc::ClientContext context;
  (*connection)->Prepare(&context);
  v1::TokenizeResponse response;
  const grpc::Status status = (*connection)->stub().Tokenize(&context, request, &response);
  if (!status.ok()) return Complain(status, options.server);

  if (ids_only_) {
    std::cout << absl::StrJoin(response.ids(), " ") << '\n';
    return kExitOk;
  }
  for (int i = 0; i < response.ids_size(); ++i) {
    // As a JSON string: spaces, line ends and control characters stay visible.
    const std::string piece = i < response.texts_size() ? response.texts(i) : "";
    std::cout << absl::StreamFormat("%8u  %s\n", response.ids(i), nlohmann::json(piece).dump());
  }
  return kExitOk;
}

}  // namespace skim
