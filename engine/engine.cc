#include "engine/engine.h"

#include <algorithm>
#include <optional>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "engine/checkpoint.h"
#include "engine/executor.h"
#include "engine/memory_limit.h"
#include "engine/model_config.h"
#include "engine/predictors.h"
#include "engine/same_vocabulary.h"
#include "engine/weights.h"

namespace skim {
namespace {

// More sequences than these decode faster without drafts.
constexpr int32_t kMostFeaturePlaces = 256;

// Pages that a block of page_tokens slots takes, over all layers.
int64_t UnitsPerBlock(const ExecutorOptions& executor, const ModelConfig& config) {
  return config.layers / LayerSegments(config.layers, executor.boundaries).unit_layers();
}

// Tokens that the whole pool can hold.
int64_t TokensOf(const ExecutorOptions& executor, const ModelConfig& config) {
  return executor.kv_pages / UnitsPerBlock(executor, config) * executor.page_tokens;
}

// A quarter of the machine's free memory, which others need, too; most of a device's own.
int64_t DefaultKvBytes(Ops* ops) {
  const std::optional<size_t> device = ops->FreeDeviceBytes();
  return device ? static_cast<int64_t>(*device / 4 * 3) : AvailableMemoryBytes() / 4;
}

// Pages for `options`: what was asked for, else the default, at most what max_running full
// contexts can use, of which a block takes `draft_units` more for the draft model.
absl::StatusOr<int32_t> KvPages(const EngineOptions& options, const ExecutorOptions& executor,
                                const ModelConfig& config, int32_t draft_units, Ops* ops) {
  const auto page_bytes = static_cast<int64_t>(KvPageBytes(config, executor));
  const int64_t units = UnitsPerBlock(executor, config);
  const int64_t context_pages = (executor.max_context + executor.page_tokens - 1) /
                                executor.page_tokens * (units + draft_units);
  const int64_t useful = context_pages * options.max_running;
  const int64_t bytes = options.kv_cache_bytes > 0 ? options.kv_cache_bytes : DefaultKvBytes(ops);
  const int64_t pages = std::min({bytes / page_bytes, useful, int64_t{1} << 30});
  if (pages < units) {
    return absl::ResourceExhaustedError(absl::StrCat("the KV cache has room for ", bytes,
                                                     " bytes, one block of ", executor.page_tokens,
                                                     " tokens takes ", page_bytes * units));
  }
  return static_cast<int32_t>(pages);
}

absl::Status AtDraftModel(const EngineOptions& options, const absl::Status& status) {
  return absl::Status(
      status.code(), absl::StrCat("draft_model ", options.draft_model_dir, ": ", status.message()));
}

absl::StatusOr<std::vector<WeightFormat>> ResidentFormats(const EngineOptions& options,
                                                          const ModelConfig& config) {
  const WeightFormat own = config.quantization ? config.quantization->format : WeightFormat::kBf16;
  if (options.weights.empty()) return std::vector<WeightFormat>{own};
  for (const WeightFormat format : options.weights) {
    const std::string name(WeightFormatName(format));
    if (std::ranges::count(options.weights, format) > 1) {
      return absl::InvalidArgumentError(absl::StrCat("weights: ", name, " is given twice"));
    }
    if (config.quantization && format != own) {
      return absl::InvalidArgumentError(absl::StrCat(
          "weights: this checkpoint comes as ", std::string(WeightFormatName(own)), ", from which ",
          name, " is not made; give ", std::string(WeightFormatName(own)), " or nothing"));
    }
  }
  return options.weights;
}

// They need predictors, and as they run together, rows of a step.
absl::Status CheckScouts(const LazyConfig& lazy, int32_t max_rows_per_step) {
  for (size_t b = 0; b < lazy.scouts.size(); ++b) {
    if (!lazy.scouts[b].any()) continue;
    const int32_t boundary = lazy.boundaries[b], window = lazy.scouts[b].window;
    if (std::ranges::count(lazy.predicted, boundary) == 0) {
      return absl::FailedPreconditionError(absl::StrCat(
          "skim_lazy.json: the scouts of boundary ", boundary, " need predictors: ", kPredictorFile,
          " has none from that layer, or is not there; make it with "
          "./run calibrate --predictors"));
    }
    const int32_t rows = window + PruneRules().sinks;
    if (rows > max_rows_per_step) {
      return absl::InvalidArgumentError(absl::StrCat(
          "skim_lazy.json: the scouts of boundary ", boundary, " are, with the first tokens, ",
          rows, " rows, which --max-rows-per-step must not be below; it is ", max_rows_per_step));
    }
  }
  return absl::OkStatus();
}

struct LoadedDraftModel {
  ModelConfig config;
  Weights weights;

  static absl::StatusOr<std::unique_ptr<LoadedDraftModel>> Load(const EngineOptions& options,
                                                                Ops* ops);
  WeightFormat format() const { return weights.formats.front(); }
  uint64_t bytes() const {
    return weights.common_bytes + weights.format_bytes[static_cast<size_t>(format())];
  }
  uint64_t StepBytes() const {
    return weights.layers.size() * weights.LayerBytes(format()) + weights.head.In(format()).bytes();
  }
};

absl::StatusOr<std::unique_ptr<LoadedDraftModel>> LoadedDraftModel::Load(
    const EngineOptions& options, Ops* ops) {
  const std::string& directory = options.draft_model_dir;
  auto model = std::make_unique<LoadedDraftModel>();
  SKIM_ASSIGN_OR_RETURN(model->config, LoadModelConfig(directory));
  SKIM_RETURN_IF_ERROR(CheckSameVocabulary(options.model_dir, directory));
  const auto& quantization = model->config.quantization;
  const WeightFormat format = quantization ? quantization->format : WeightFormat::kInt8;
  SKIM_ASSIGN_OR_RETURN(const Checkpoint checkpoint, Checkpoint::Open(directory));
  SKIM_ASSIGN_OR_RETURN(model->weights,
                        Weights::Load(model->config, checkpoint, std::span(&format, 1), ops, {}));
  model->weights.draft_head.reset();
  model->weights.exit_adapters = {};
  return model;
}

}  // namespace

struct Engine::Impl {
  ModelConfig config;
  std::unique_ptr<Ops> ops;
  Weights weights;
  Predictors predictors;
  std::unique_ptr<LoadedDraftModel> draft_model;  // null: there is none
  std::unique_ptr<Executor> executor;
  ModelInfo info;
};

Engine::Engine(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Engine::~Engine() = default;

absl::StatusOr<std::unique_ptr<Engine>> Engine::Load(
    const EngineOptions& options, const std::function<void(uint64_t, uint64_t)>& progress) {
  auto impl = std::make_unique<Impl>();
  SKIM_ASSIGN_OR_RETURN(impl->config, LoadModelConfig(options.model_dir));
  const ModelConfig& config = impl->config;
  SKIM_ASSIGN_OR_RETURN(const auto formats, ResidentFormats(options, config));
  SKIM_ASSIGN_OR_RETURN(const Checkpoint checkpoint, Checkpoint::Open(options.model_dir));
  SKIM_ASSIGN_OR_RETURN(impl->ops, MakeOps(options.backend));
  if (!impl->ops->HasKvFormat(options.kv_format)) {
    return absl::UnimplementedError(absl::StrCat("kv_format: the ", options.backend.backend,
                                                 " backend does not have ",
                                                 std::string(KvFormatName(options.kv_format))));
  }
  SKIM_ASSIGN_OR_RETURN(impl->weights,
                        Weights::Load(config, checkpoint, formats, impl->ops.get(), progress));

  ModelInfo& info = impl->info;
  SKIM_ASSIGN_OR_RETURN(info.lazy,
                        LoadLazyConfig(options.model_dir, config, options.lazy_boundaries));
  if (!impl->ops->ScoresKeys()) {
    if (options.lazy_boundaries.has_value() && !options.lazy_boundaries->empty()) {
      return absl::UnimplementedError(absl::StrCat(
          "--lazy-boundaries: prompts cannot be pruned on ", impl->ops->Description()));
    }
    info.lazy = {};
  }
  SKIM_ASSIGN_OR_RETURN(impl->predictors, Predictors::Load(config, checkpoint, info.lazy.boundaries,
                                                           impl->ops.get()));
  info.lazy.predicted = impl->predictors.boundaries();
  SKIM_RETURN_IF_ERROR(CheckScouts(info.lazy, options.max_rows_per_step));
  ExecutorOptions executor;
  executor.max_rows = options.max_rows_per_step;
  executor.kv_format = options.kv_format;
  executor.feature_places = std::min(options.max_running, kMostFeaturePlaces);
  if (impl->ops->Asynchronous()) executor.pending_draws = options.max_running * kFeatureRows;
  if (!info.lazy.boundaries.empty()) {
    // Rows of a pruned prompt run about half of the layers: a step's work is more of them.
    executor.max_rows = 2 * options.max_rows_per_step + options.max_revival_rows;
    executor.boundaries = info.lazy.boundaries;
    executor.score_heads = info.lazy.score_heads;
    executor.scouts = info.lazy.scouts;
  }
  executor.max_context = options.max_context > 0
                             ? std::min(options.max_context, config.max_positions)
                             : config.max_positions;
  int32_t draft_units = 0;
  if (!options.draft_model_dir.empty()) {
    auto loaded = LoadedDraftModel::Load(options, impl->ops.get());
    if (!loaded.ok()) return AtDraftModel(options, loaded.status());
    impl->draft_model = *std::move(loaded);
    const LoadedDraftModel& model = *impl->draft_model;
    const auto geometry = DraftGeometry(config, executor, model.config, model.format());
    if (!geometry.ok()) return AtDraftModel(options, geometry.status());
    draft_units = geometry->units;
  }
  SKIM_ASSIGN_OR_RETURN(executor.kv_pages,
                        KvPages(options, executor, config, draft_units, impl->ops.get()));
  // A sequence that outgrows the pool would fail in the middle; one that meets the end of
  // its context ends in order.
  const int64_t kv_cache_tokens = TokensOf(executor, config);
  executor.max_context =
      static_cast<int32_t>(std::min<int64_t>(executor.max_context, kv_cache_tokens));
  std::optional<DraftModel> draft;
  if (impl->draft_model) draft.emplace(impl->draft_model->config, impl->draft_model->weights);
  SKIM_ASSIGN_OR_RETURN(impl->executor,
                        Executor::Create(config, impl->weights, impl->predictors, impl->ops.get(),
                                         executor, draft ? &*draft : nullptr));

  info.architecture = config.model_type;
  info.parameters = impl->weights.parameters;
  info.layers = config.layers;
  info.hidden_size = config.hidden_size;
  info.kv_size = config.kv_width();
  info.vocabulary = config.vocab_size;
  info.max_context = executor.max_context;
  info.eos_tokens = config.eos_tokens;
  info.backend = impl->ops->Description();
  const Weights& weights = impl->weights;
  info.common_weight_bytes = weights.common_bytes + impl->predictors.bytes();
  info.draft_head_bytes = weights.draft_head ? weights.draft_head->bytes : 0;
  info.adapted_exits = weights.exit_adapters.exits();
  info.exit_adapter_bytes = weights.exit_adapters.bytes();
  if (const LoadedDraftModel* model = impl->draft_model.get()) {
    info.draft_model_step_bytes = model->StepBytes();
    info.draft_model_bytes = model->bytes();
  }
  info.weight_bytes = info.common_weight_bytes + info.draft_head_bytes + info.exit_adapter_bytes +
                      info.draft_model_bytes;
  for (const WeightFormat format : weights.formats) {
    const uint64_t bytes = weights.format_bytes[static_cast<size_t>(format)];
    info.weights.push_back(
        {format, bytes, weights.LayerBytes(format), weights.head.In(format).bytes()});
    info.weight_bytes += bytes;
  }
  info.kv_page_bytes = KvPageBytes(config, executor);
  info.kv_cache_bytes = info.kv_page_bytes * static_cast<uint64_t>(executor.kv_pages);
  info.kv_cache_tokens = kv_cache_tokens;
  info.kv_format = options.kv_format;
  info.default_temperature = config.default_temperature;
  info.default_top_p = config.default_top_p;
  info.default_top_k = config.default_top_k;
  return std::unique_ptr<Engine>(new Engine(std::move(impl)));
}

const ModelInfo& Engine::model() const { return impl_->info; }
StepExecutor& Engine::executor() { return *impl_->executor; }

}  // namespace skim
