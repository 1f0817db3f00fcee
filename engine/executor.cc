#include "engine/executor.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace skim {
namespace {

// Rows whose logits exist at one time: [kHeadRows, vocab] floats is all the memory they
// take, however many prompt log-probabilities are asked for.
constexpr int32_t kHeadRows = 64;

KvLayout LayoutOf(const ModelConfig& config, const ExecutorOptions& options) {
  const LayerSegments segments(config.layers, options.boundaries);
  return {options.page_tokens, segments.unit_layers(), config.kv_heads, config.head_dim,
          options.kv_format};
}

}  // namespace

size_t KvPageBytes(const ModelConfig& config, const ExecutorOptions& options) {
  return static_cast<size_t>(LayoutOf(config, options).PageBytes());
}

Executor::Executor(const ModelConfig& config, const Weights& weights, Ops* ops,
                   const ExecutorOptions& options)
    : config_(config),
      weights_(weights),
      ops_(*ops),
      options_(options),
      segments_(config.layers, options.boundaries),
      sample_rows_(config.vocab_size) {
  geometry_.page_tokens = options.page_tokens;
  geometry_.total_pages = options.kv_pages;
  geometry_.segment_units = segments_.units();
  geometry_.layers = static_cast<int16_t>(config.layers);
}

absl::StatusOr<std::unique_ptr<Executor>> Executor::Create(const ModelConfig& config,
                                                           const Weights& weights, Ops* ops,
                                                           const ExecutorOptions& options) {
  std::unique_ptr<Executor> executor(new Executor(config, weights, ops, options));
  SKIM_RETURN_IF_ERROR(executor->Allocate());
  return executor;
}

absl::Status Executor::Allocate() {
  const size_t hidden = static_cast<size_t>(config_.hidden_size);
  const KvLayout layout = LayoutOf(config_, options_);
  SKIM_ASSIGN_OR_RETURN(kv_pool_, ops_.Allocate(static_cast<size_t>(layout.PageBytes()) * options_.kv_pages));
  SKIM_ASSIGN_OR_RETURN(hidden_store_,
                        ops_.Allocate(options_.hidden_slots * hidden * sizeof(float)));
  SKIM_ASSIGN_OR_RETURN(head_hidden_, ops_.Allocate(kHeadRows * hidden * sizeof(float)));
  SKIM_ASSIGN_OR_RETURN(head_normed_, ops_.Allocate(kHeadRows * hidden * sizeof(Bf16)));
  SKIM_ASSIGN_OR_RETURN(head_index_, ops_.Allocate(kHeadRows * sizeof(int32_t)));
  SKIM_ASSIGN_OR_RETURN(logits_, ops_.Allocate(sizeof(float) * kHeadRows *
                                               static_cast<size_t>(config_.vocab_size)));
  const ModelMemory memory{kv_pool_->data(), layout,
                           {hidden_store_->As<float>(), options_.hidden_slots,
                            config_.hidden_size, config_.hidden_size}};
  SKIM_ASSIGN_OR_RETURN(transformer_,
                        Transformer::Create(config_, segments_, weights_, memory, &ops_,
                                            options_.max_rows, options_.max_context));
  return absl::OkStatus();
}

absl::Status Executor::CheckRows(const StepPlan& plan) const {
  if (plan.rows() > options_.max_rows) {
    return absl::InternalError(absl::StrCat("step plan: ", plan.rows(), " rows, ",
                                            options_.max_rows, " are the most"));
  }
  for (TokenId token : plan.tokens) {
    if (token < 0 || token >= config_.vocab_size) {
      return absl::InternalError(absl::StrCat("step plan: token ", token, " is not in the vocabulary"));
    }
  }
  for (int32_t position : plan.positions) {
    if (position < 0 || position >= options_.max_context) {
      return absl::InternalError(absl::StrCat("step plan: position ", position, " is out of range"));
    }
  }
  for (const PlanSequence& sequence : plan.sequences) {
    if (!weights_.Has(sequence.weight_format)) {
      return absl::InternalError(absl::StrCat(
          "step plan: ", std::string(WeightFormatName(sequence.weight_format)),
          " weights are not resident"));
    }
    for (const auto& pages : sequence.segment_pages) {
      for (PageId page : pages) {
        if (page < 0 || page >= options_.kv_pages) {
          return absl::InternalError(absl::StrCat("step plan: there is no page ", page));
        }
      }
    }
  }
  for (int32_t slot : plan.hidden_slots) {
    if (slot >= options_.hidden_slots) {
      return absl::InternalError(absl::StrCat("step plan: there is no hidden slot ", slot));
    }
  }
  return absl::OkStatus();
}

std::vector<Executor::Wanted> Executor::WantedRows(const StepPlan& plan) const {
  std::vector<Wanted> wanted;
  for (size_t s = 0; s < plan.sequences.size(); ++s) {
    const PlanSequence& sequence = plan.sequences[s];
    const int32_t end = sequence.row_begin + sequence.row_count;
    if (sequence.logits == LogitsWanted::kAll) {
      for (int32_t row = sequence.row_begin; row < end; ++row) {
        if (plan.positions[row] + 1 < sequence.prompt_tokens) {
          wanted.push_back({row, static_cast<int32_t>(s), /*draw=*/false});
        }
      }
    }
    if (sequence.logits != LogitsWanted::kNone && sequence.sample) {
      wanted.push_back({end - 1, static_cast<int32_t>(s), /*draw=*/true});
    }
  }
  return wanted;
}

absl::Status Executor::Execute(const StepPlan& plan, StepResult* result) {
  result->sequences.assign(plan.sequences.size(), SequenceResult());
  if (plan.empty()) return absl::OkStatus();
  SKIM_RETURN_IF_ERROR(CheckRows(plan));
  SKIM_RETURN_IF_ERROR(StepLayout::Build(plan, segments_, options_.page_tokens, &layout_));

  const size_t index_bytes = layout_.index.size() * sizeof(int32_t);
  if (!index_ || index_->size() < index_bytes) {
    SKIM_ASSIGN_OR_RETURN(index_, ops_.Allocate(2 * index_bytes));
  }
  ops_.Upload(index_->data(), layout_.index.data(), index_bytes);
  transformer_->Run(layout_, index_->As<int32_t>());

  const std::vector<Wanted> wanted = WantedRows(plan);
  for (size_t begin = 0; begin < wanted.size(); begin += kHeadRows) {
    const size_t count = std::min<size_t>(kHeadRows, wanted.size() - begin);
    SKIM_RETURN_IF_ERROR(RunHead(plan, std::span(wanted).subspan(begin, count), result));
  }
  return ops_.Wait();
}

absl::Status Executor::RunHead(const StepPlan& plan, std::span<const Wanted> wanted,
                               StepResult* result) {
  const auto rows = static_cast<int64_t>(wanted.size());
  const int64_t hidden = config_.hidden_size, vocab = config_.vocab_size;
  std::vector<int32_t> index;
  std::vector<FormatRows> formats;
  sample_rows_.Clear();
  for (const Wanted& want : wanted) {
    const PlanSequence& sequence = plan.sequences[want.sequence];
    index.push_back(want.row);
    AppendRows(sequence.weight_format, 1, &formats);
    if (want.draw) {
      sample_rows_.AddDraw(sequence);
    } else {
      sample_rows_.AddScore(sequence, plan.positions[want.row] + 1);
    }
  }
  const Matrix<float> x{head_hidden_->As<float>(), rows, hidden, hidden};
  const Matrix<Bf16> normed{head_normed_->As<Bf16>(), rows, hidden, hidden};
  const Matrix<float> logits{logits_->As<float>(), rows, vocab, vocab};
  ops_.Upload(head_index_->data(), index.data(), index.size() * sizeof(int32_t));
  ops_.GatherRows(transformer_->Hidden(plan.rows()), head_index_->As<int32_t>(), x);
  ops_.RmsNorm(x, Floats(weights_.final_norm), config_.norm_eps, normed);
  LinearByFormat(ops_, formats, normed, weights_.head, nullptr, /*accumulate=*/false, logits);
  if (probe_) SKIM_RETURN_IF_ERROR(Probe(plan, wanted));

  std::vector<SampledToken> sampled(wanted.size());
  ops_.Sample(logits, sample_rows_.rows(), sampled);
  SKIM_RETURN_IF_ERROR(ops_.Wait());
  for (size_t i = 0; i < wanted.size(); ++i) {
    SequenceResult& sequence = result->sequences[wanted[i].sequence];
    if (!sampled[i].finite || sampled[i].token < 0) {
      sequence.status = absl::InternalError("the model's output has no usable probabilities");
      continue;
    }
    (wanted[i].draw ? sequence.sampled : sequence.prompt_logprobs).push_back(std::move(sampled[i]));
  }
  return absl::OkStatus();
}

absl::Status Executor::Probe(const StepPlan& plan, std::span<const Wanted> wanted) {
  std::vector<float> row(static_cast<size_t>(config_.vocab_size));
  for (size_t i = 0; i < wanted.size(); ++i) {
    ops_.Download(row.data(), logits_->As<float>() + i * row.size(), row.size() * sizeof(float));
    SKIM_RETURN_IF_ERROR(ops_.Wait());
    probe_(plan.sequences[wanted[i].sequence].id, plan.positions[wanted[i].row], row);
  }
  return absl::OkStatus();
}

}  // namespace skim
