#include "cli/model.h"

#include <iostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "cli/weight_format_name.h"

namespace skim {
namespace {

std::string Mebibytes(uint64_t bytes) { return absl::StrFormat("%.1f MiB", bytes / 1048576.0); }

// "bf16 256.6 MiB (default), int8 129.0 MiB, common 0.1 MiB". A server of an earlier version
// tells no sizes.
std::string DescribeWeights(const v1::GetModelResponse& model) {
  std::string out;
  for (int i = 0; i < model.weight_formats_size(); ++i) {
    absl::StrAppend(&out, i > 0 ? ", " : "", WeightFormatName(model.weight_formats(i)));
    if (i < model.weight_format_bytes_size()) {
      absl::StrAppend(&out, " ", Mebibytes(model.weight_format_bytes(i)));
    }
    if (i == 0) out += " (default)";
  }
  if (model.common_weight_bytes() > 0) {
    absl::StrAppend(&out, ", common ", Mebibytes(model.common_weight_bytes()));
  }
  return out;
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
      {"weights", DescribeWeights(model)},
      {"KV cache", absl::StrCat(model.kv_format(), ", ", model.kv_cache_tokens(), " tokens")},
      {"backend", model.backend()},
      {"skimd", model.version()},
  };
  for (const auto& [key, value] : rows) std::cout << absl::StreamFormat("%-14s %s\n", key, value);
  return kExitOk;
}

}  // namespace skim
