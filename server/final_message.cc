#include "server/final_message.h"

#include "server/decode_modes.h"
#include "server/speculation_saved.h"
#include "server/weight_formats.h"

namespace skim {
namespace {

double Milliseconds(Micros begin, Micros end) {
  return begin == kNever || end == kNever || end < begin ? 0 : (end - begin) / 1e3;
}

v1::FinishReason ToProto(const Finish& finish, const ChoiceOutput& output) {
  // The loop saw a cancellation; the cause was ours.
  if (output.stop_string_found()) return v1::FINISH_REASON_STOP;
  switch (finish.reason) {
    case FinishReason::kStopToken:
      return v1::FINISH_REASON_STOP;
    case FinishReason::kLength:
      return v1::FINISH_REASON_LENGTH;
    case FinishReason::kTimeLimit:
      return v1::FINISH_REASON_TIME_LIMIT;
    case FinishReason::kCancelled:
      return v1::FINISH_REASON_CANCELLED;
    case FinishReason::kError:
      break;
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

void FillPrefill(const PrefillReport& report, uint64_t page_bytes, v1::PrefillOutcome* out) {
  switch (report.mode) {
    case PrefillMode::kExact:
      out->set_mode(v1::PrefillOutcome::MODE_EXACT);
      return;
    case PrefillMode::kExactShort:
      out->set_mode(v1::PrefillOutcome::MODE_EXACT_TOO_SHORT);
      return;
    case PrefillMode::kLazy:
      out->set_mode(v1::PrefillOutcome::MODE_LAZY);
      break;
  }
  out->set_decode_mode(ToProto(report.decode));
  for (const int32_t tokens : report.segment_tokens) {
    out->add_segment_tokens(static_cast<uint32_t>(tokens));
  }
  out->set_kept_tokens(static_cast<uint32_t>(report.kept_tokens));
  out->set_predicted_tokens(static_cast<uint32_t>(report.predicted_tokens));
  out->set_revived_tokens(static_cast<uint32_t>(report.revived_tokens));
  out->set_hidden_bytes(static_cast<uint64_t>(report.hidden_pages) * page_bytes);
  out->set_revival_stopped(report.hidden_dropped);
  out->set_token_layers_saved(static_cast<uint64_t>(report.token_layers_saved));
}

v1::SpeculationOutcome::Drafter DrafterOf(size_t source) {
  if (source == kTextSource) return v1::SpeculationOutcome::DRAFTER_LOOKUP;
  if (source == kStoreSource) return v1::SpeculationOutcome::DRAFTER_STORE;
  if (source == kHeadSource) return v1::SpeculationOutcome::DRAFTER_HEAD;
  if (source == kDraftModelSource) return v1::SpeculationOutcome::DRAFTER_DRAFT_MODEL;
  return v1::SpeculationOutcome::DRAFTER_SELF;
}

void FillSpeculation(const SpeculationReport& report, WeightFormat weights, const ModelInfo& model,
                     v1::SpeculationOutcome* out) {
  for (size_t i = 0; i < kDraftSources; ++i) {
    const DraftCounts& counts = report.by_source[i];
    if (counts.rounds == 0 && counts.catch_up_rows == 0) continue;
    v1::SpeculationOutcome::Source* source = out->add_sources();
    source->set_drafter(DrafterOf(i));
    if (IsSelf(i)) source->set_weights(ToProto(FormatOfSelf(i)));
    source->set_draft_rows(static_cast<uint32_t>(counts.passes));
    source->set_catch_up_rows(static_cast<uint64_t>(counts.catch_up_rows));
    source->set_rounds(static_cast<uint32_t>(counts.rounds));
    source->set_draft_tokens(static_cast<uint32_t>(counts.drafted));
    source->set_accepted_tokens(static_cast<uint32_t>(counts.accepted));
  }
  for (int i = 0; i < kMaxDrafts && report.drafted_at[i] > 0; ++i) {
    out->add_draft_tokens_at(static_cast<uint32_t>(report.drafted_at[i]));
    out->add_accepted_tokens_at(static_cast<uint32_t>(report.accepted_at[i]));
  }
  const DraftCounts total = report.total();
  out->set_draft_rows(static_cast<uint32_t>(total.passes));
  if (total.rounds > 0) out->set_tokens_per_round(1 + double{1} * total.accepted / total.rounds);
  const SpeculationSaved saved = SavedBySpeculation(report, weights, model);
  out->set_layer_passes_saved(saved.layer_passes);
  out->set_weight_bytes_saved(saved.weight_bytes);
}

}  // namespace

const char* PrefillModeName(PrefillMode mode) {
  switch (mode) {
    case PrefillMode::kExact:
      return "exact";
    case PrefillMode::kExactShort:
      return "exact_too_short";
    case PrefillMode::kLazy:
      return "lazy";
  }
  return "?";
}

v1::Final BuildFinal(const Finish& finish, const ChoiceOutput& output, Micros arrival,
                     Micros last_token, const ModelInfo& model) {
  v1::Final final;
  final.set_finish_reason(ToProto(finish, output));
  final.set_weights(ToProto(finish.weight_format));
  if (finish.prefill.asked) {
    FillPrefill(finish.prefill, model.kv_page_bytes, final.mutable_prefill());
  }
  if (finish.speculation.drafter != DrafterKind::kNone) {
    FillSpeculation(finish.speculation, finish.weight_format, model, final.mutable_speculation());
  }
  if (final.finish_reason() == v1::FINISH_REASON_STOP) output.ReportStop(&final);

  v1::Usage* usage = final.mutable_usage();
  usage->set_prompt_tokens(finish.prompt_tokens);
  usage->set_cached_tokens(finish.cached_tokens);
  usage->set_generated_tokens(output.generated_tokens());

  v1::Timings* timings = final.mutable_timings();
  timings->set_queue_ms(Milliseconds(arrival, finish.scheduled));
  timings->set_time_to_first_token_ms(Milliseconds(arrival, finish.first_token));
  // A sequence that ended by itself ended with its last token, on the loop's own time.
  const bool by_itself =
      !output.stop_string_found() &&
      (finish.reason == FinishReason::kStopToken || finish.reason == FinishReason::kLength);
  const double generation_ms =
      Milliseconds(finish.first_token, by_itself ? finish.finished : last_token);
  timings->set_generation_ms(generation_ms);
  const int32_t later_tokens = output.generated_tokens() - 1;
  if (later_tokens > 0 && generation_ms > 0) {
    timings->set_mean_inter_token_ms(generation_ms / later_tokens);
    timings->set_tokens_per_s(later_tokens / (generation_ms / 1e3));
  }
  return final;
}

const char* ReasonName(v1::FinishReason reason) {
  switch (reason) {
    case v1::FINISH_REASON_STOP:
      return "stop";
    case v1::FINISH_REASON_LENGTH:
      return "length";
    case v1::FINISH_REASON_TIME_LIMIT:
      return "time_limit";
    case v1::FINISH_REASON_CANCELLED:
      return "cancelled";
    default:
      return "error";
  }
}

}  // namespace skim
