#include "cli/model.h"

#include <iostream>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"

namespace skim {
namespace {

std::string FormatNames(const v1::GetModelResponse& model) {
  return absl::StrJoin(model.weight_formats(), ", ", [](std::string* out, int format) {
    const std::string name = v1::WeightFormat_Name(static_cast<v1::WeightFormat>(format));
    absl::StrAppend(out,
                    absl::AsciiStrToLower(absl::StrReplaceAll(name, {{"WEIGHT_FORMAT_", ""}})));
  });
}

}  // namespace

ExitCode ModelCommand::Run(const ConnectionOptions& options) {
  const auto connection = Connection::Open(options);
  if (!connection.ok()) return ComplainAboutFlags(connection.status());
  grpc::ClientContext context;
  (*connection)->Prepare(&context);
  v1::GetModelResponse model;
  const grpc::Status status = (*connection)->stub().GetModel(&context, {}, &model);
  if (!status.ok()) return Complain(status, options.server);

  const std::pair<const char*, std::string> rows[] = {
      {"name", model.name()},
      {"architecture", model.architecture()},
      {"parameters", absl::StrFormat("%.1f million", model.parameters() * 1e-6)},
      {"layers", absl::StrCat(model.layers())},
      {"hidden size", absl::StrCat(model.hidden_size())},
      {"vocabulary", absl::StrCat(model.vocabulary())},
      {"context", absl::StrCat(model.max_context(), " tokens")},
      {"end tokens", absl::StrJoin(model.end_token_ids(), ", ")},
      {"chat template", model.has_chat_template() ? "yes" : "no"},
      {"weights", FormatNames(model)},
      {"backend", model.backend()},
      {"skimd", model.version()},
  };
  for (const auto& [key, value] : rows) std::cout << absl::StreamFormat("%-14s %s\n", key, value);
  return kExitOk;
}

}  // namespace skim
