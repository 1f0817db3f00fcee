#include "cli/command.h"

#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/weight_format_name.h"

namespace skim {
namespace {

std::string_view FinishName(v1::FinishReason reason) {
  switch (reason) {
    case v1::FINISH_REASON_STOP:
      return "stop";
    case v1::FINISH_REASON_LENGTH:
      return "length";
    case v1::FINISH_REASON_TIME_LIMIT:
      return "time limit";
    case v1::FINISH_REASON_CANCELLED:
      return "cancelled";
    default:
      return "unknown";
  }
}

std::string DescribePrefill(const v1::PrefillOutcome& prefill) {
  if (prefill.mode() == v1::PrefillOutcome::MODE_EXACT_TOO_SHORT) {
    return "; prefill exact, the prompt is too short to prune";
  }
  if (prefill.mode() != v1::PrefillOutcome::MODE_LAZY) return "; prefill exact";
  std::string cut;  // what became of it
  if (prefill.predicted_tokens() > 0) {
    cut = absl::StrFormat(", predicted %u", prefill.predicted_tokens());
  }
  if (prefill.decode_mode() != v1::PrefillPolicy::DECODE_MODE_PHANTOM) {
    absl::StrAppend(&cut, ", revived ", prefill.revived_tokens());
  }
  return absl::StrFormat("; prefill pruned, kept %u tokens%s, saved %u token-layers%s",
                         prefill.kept_tokens(), cut, prefill.token_layers_saved(),
                         prefill.revival_stopped() ? ", revival stopped for lack of memory" : "");
}

std::string DescribeSpeculation(const v1::SpeculationOutcome& speculation) {
  uint32_t drafted = 0, accepted = 0;
  for (const v1::SpeculationOutcome::Source& source : speculation.sources()) {
    drafted += source.draft_tokens();
    accepted += source.accepted_tokens();
  }
  if (drafted == 0) return "; nothing drafted";
  return absl::StrFormat(
      "; drafted %u tokens, accepted %u (%.0f %%), %.2f tokens a round, saved %d layer passes, "
      "%.1f MB of weights",
      drafted, accepted, 100.0 * accepted / drafted, speculation.tokens_per_round(),
      speculation.layer_passes_saved(),
      static_cast<double>(speculation.weight_bytes_saved()) / 1e6);
}

}  // namespace

ExitCode Complain(const grpc::Status& status, std::string_view server) {
  std::cerr << "skim: " << Explain(status, server) << std::endl;
  return ExitCodeOf(status);
}

ExitCode ComplainAboutFlags(const absl::Status& status) {
  std::cerr << "skim: " << std::string(status.message()) << std::endl;
  return kExitBadRequest;
}

std::string ReadStdin() {
  return {std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()};
}

TextOutput::TextOutput() : is_terminal_(isatty(STDOUT_FILENO) != 0) {}

void TextOutput::Write(std::string_view text) {
  if (text.empty()) return;
  if (is_terminal_) {
    for (const char c : text) {
      const auto byte = static_cast<unsigned char>(c);
      if (byte == '\n' || byte == '\t' || (byte >= 0x20 && byte != 0x7f)) std::putchar(c);
    }
  } else {
    std::fwrite(text.data(), 1, text.size(), stdout);
  }
  std::fflush(stdout);
  at_line_start_ = text.back() == '\n';
}

void TextOutput::EndLine() {
  if (!at_line_start_) Write("\n");
}

std::string Describe(const v1::Final& final) {
  const v1::Usage& usage = final.usage();
  const v1::Timings& timings = final.timings();
  std::string text = absl::StrFormat(
      "finish %s; prompt %u tokens (%u cached), generated %u; queue %.1f ms, first token "
      "%.1f ms, %.2f ms/token, %.1f tokens/s; weights %s; seed %u",
      std::string(FinishName(final.finish_reason())), usage.prompt_tokens(), usage.cached_tokens(),
      usage.generated_tokens(), timings.queue_ms(), timings.time_to_first_token_ms(),
      timings.mean_inter_token_ms(), timings.tokens_per_s(), WeightFormatName(final.weights()),
      final.seed());
  if (final.has_prefill()) text += DescribePrefill(final.prefill());
  if (final.has_speculation()) text += DescribeSpeculation(final.speculation());
  return text;
}

}  // namespace skim
