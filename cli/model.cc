#include "cli/model.h"

#include <iostream>
#include <utility>
#include <vector>

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

// "at layers 9, 15, 0.7 MiB", or "no".
std::string DescribeAdapters(const v1::GetModelResponse& model) {
  if (model.adapted_exits().empty()) return "no";
  return absl::StrCat("at layers ", absl::StrJoin(model.adapted_exits(), ", "), ", ",
                      Mebibytes(model.exit_adapter_bytes()));
}

// "after layers 18, 23; prompts from 1000 tokens on", or "no".
std::string DescribePruning(const v1::GetModelResponse& model) {
  if (model.prefill_boundaries().empty()) return "no";
  std::string out = "after layers " + absl::StrJoin(model.prefill_boundaries(), ", ");
  if (model.prefill_min_prompt_tokens() > 0) {
    absl::StrAppend(&out, "; prompts from ", model.prefill_min_prompt_tokens(), " tokens on");
  }
  return out;
}

const char* DecodeModeName(v1::PrefillPolicy::DecodeMode mode) {
  switch (mode) {
    case v1::PrefillPolicy::DECODE_MODE_STATIC:
      return "static";
    case v1::PrefillPolicy::DECODE_MODE_LAZY:
      return "lazy";
    case v1::PrefillPolicy::DECODE_MODE_STRICT:
      return "strict";
    case v1::PrefillPolicy::DECODE_MODE_PHANTOM:
      return "phantom";
    case v1::PrefillPolicy::DECODE_MODE_LATE:
      return "late";
    default:
      return "?";
  }
}

// "keeps 30 %, 10 %; lazy, revives 8": the shares above each boundary.
std::string DescribeProfile(const v1::PrefillProfile& profile) {
  std::string out = "keeps ";
  for (int i = 0; i < profile.keep_ratio_size(); ++i) {
    absl::StrAppend(&out,
                    absl::StrFormat("%s%.3g %%", i > 0 ? ", " : "", 100 * profile.keep_ratio(i)));
  }
  absl::StrAppend(&out, "; ", DecodeModeName(profile.decode_mode()));
  if (profile.decode_mode() != v1::PrefillPolicy::DECODE_MODE_STATIC &&
      profile.decode_mode() != v1::PrefillPolicy::DECODE_MODE_PHANTOM) {
    absl::StrAppend(&out, ", revives ", profile.revival_budget());
    if (profile.look_back() > 0) {
      absl::StrAppend(&out, " and ", profile.look_back(), " before the first");
    }
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

  std::vector<std::pair<std::string, std::string>> rows = {
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
      {"drafters", absl::StrJoin(model.drafters(), ", ")},
      {"exit adapters", DescribeAdapters(model)},
      {"draft model",
       model.draft_model_bytes() > 0 ? Mebibytes(model.draft_model_bytes()) : std::string("no")},
      {"backend", model.backend()},
      {"skimd", model.version()},
      {"pruning", DescribePruning(model)},
  };
  for (const v1::PrefillProfile& profile : model.prefill_profile_settings()) {
    rows.emplace_back("  " + profile.name(), DescribeProfile(profile));
  }
  for (const auto& [key, value] : rows) std::cout << absl::StreamFormat("%-14s %s\n", key, value);
  return kExitOk;
}

}  // namespace skim
