#include "engine/weights.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace skim {
namespace {

constexpr char kEmbedding[] = "model.embed_tokens.weight";

// Reads tensors, hands them to the backend, keeps the totals.
class Loader {
 public:
  Loader(const ModelConfig& config, const Checkpoint& checkpoint, Ops* ops,
         const std::function<void(uint64_t, uint64_t)>& progress, Weights* out)
      : quantization_(config.quantization),
        checkpoint_(checkpoint),
        ops_(ops),
        progress_(progress),
        out_(*out),
        total_bytes_(static_cast<uint64_t>(checkpoint.total_bytes())) {}

  // A matrix in host memory: the tensors `names`, whose row counts are `rows`, stacked.
  struct Stack {
    std::string name = {};  // of the first tensor, for errors
    int64_t rows = 0;
    int64_t cols = 0;
    std::vector<Bf16> values = {};
    StoredCodes stored = {};  // instead of values, where the checkpoint has codes
    bool quantized() const { return !stored.codes.empty(); }
  };
  absl::StatusOr<Stack> Read(const std::vector<std::string>& names,
                             const std::vector<int64_t>& rows, int64_t cols) {
    SKIM_ASSIGN_OR_RETURN(const bool codes, HasCodes(names));
    Stack stack{.name = names[0], .cols = cols};
    for (size_t i = 0; i < names.size(); ++i) {
      if (codes) {
        SKIM_ASSIGN_OR_RETURN(StoredCodes part,
                              checkpoint_.Codes(names[i], {rows[i], cols}, quantization_->format));
        Append(std::move(part.codes), &stack.stored.codes);
        Append(std::move(part.scales), &stack.stored.scales);
      } else {
        SKIM_ASSIGN_OR_RETURN(std::vector<Bf16> part,
                              checkpoint_.Bf16Tensor(names[i], {rows[i], cols}));
        Append(std::move(part), &stack.values);
      }
      stack.rows += rows[i];
      Count(names[i], rows[i] * cols);
    }
    return stack;
  }

  const std::string& directory() const { return checkpoint_.directory(); }

  // Codes stay as they are, values become `format`.
  absl::StatusOr<std::unique_ptr<PackedWeight>> Pack(const Stack& stack, WeightFormat format,
                                                     WeightShape shape, uint64_t* bytes) {
    auto packed = stack.quantized()
                      ? ops_->PackQuantized({quantization_->format, stack.stored.codes.data(),
                                             stack.stored.scales.data(), stack.rows, stack.cols},
                                            shape)
                      : ops_->PackWeight({stack.values.data(), stack.rows, stack.cols, stack.cols},
                                         format, shape);
    if (!packed.ok()) {
      return absl::Status(
          packed.status().code(),
          absl::StrCat(checkpoint_.directory(), ": ", stack.name, " as ",
                       std::string(WeightFormatName(format)), ": ", packed.status().message()));
    }
    *bytes += (*packed)->bytes();
    return packed;
  }

  // In every resident format.
  absl::StatusOr<WeightByFormat> Linear(const std::vector<std::string>& names,
                                        const std::vector<int64_t>& rows, int64_t cols,
                                        WeightShape shape = WeightShape::kPlain) {
    SKIM_ASSIGN_OR_RETURN(const Stack stack, Read(names, rows, cols));
    WeightByFormat weight;
    for (const WeightFormat format : out_.formats) {
      SKIM_RETURN_IF_ERROR(Add(stack, Precision(format), shape, format, &weight));
    }
    return weight;
  }

  // Each of the heads that the formats take, once.
  absl::StatusOr<WeightByFormat> Head(const Stack& stack) {
    WeightByFormat head;
    // Those that take their own go first, so that they pay for what others share.
    std::vector<WeightFormat> order = out_.formats;
    std::ranges::stable_partition(order, [](WeightFormat f) { return HeadFormat(f) == f; });
    std::array<std::optional<WeightFormat>, kWeightFormats> holder;
    for (const WeightFormat format : order) {
      const WeightFormat taken = HeadFormat(format);
      std::optional<WeightFormat>& first = holder[static_cast<size_t>(taken)];
      if (first) {
        head.Share(format, *first);
        continue;
      }
      first = format;
      SKIM_RETURN_IF_ERROR(
          Add(stack, Precision(taken), WeightShape::kPlain, format, &head));
    }
    return head;
  }

  absl::StatusOr<std::unique_ptr<Buffer>> Vector(const std::vector<std::string>& names,
                                                 const std::vector<int64_t>& sizes) {
    std::vector<float> stacked;
    for (size_t i = 0; i < names.size(); ++i) {
      SKIM_ASSIGN_OR_RETURN(std::vector<float> part,
                            checkpoint_.FloatTensor(names[i], {sizes[i]}));
      Append(std::move(part), &stacked);
      Count(names[i], sizes[i]);
    }
    const size_t bytes = stacked.size() * sizeof(float);
    SKIM_ASSIGN_OR_RETURN(std::unique_ptr<Buffer> buffer, ops_->Allocate(bytes));
    ops_->Upload(buffer->data(), stacked.data(), bytes);
    SKIM_RETURN_IF_ERROR(ops_->Wait());
    out_.common_bytes += bytes;
    return buffer;
  }

 private:
  template <typename T>
  static void Append(std::vector<T> part, std::vector<T>* all) {
    if (all->empty()) {
      *all = std::move(part);
    } else {
      all->insert(all->end(), part.begin(), part.end());
    }
  }

  // What values become for rows of `format`: floating point of a checkpoint that comes
  // quantised was left so on purpose.
  WeightFormat Precision(WeightFormat format) const {
    return quantization_ ? WeightFormat::kBf16 : format;
  }

  // Whether the tensors are stored as codes: all or none, and as quantization_config says.
  absl::StatusOr<bool> HasCodes(const std::vector<std::string>& names) const {
    if (!quantization_) return false;
    const bool codes = checkpoint_.HasCodes(names[0]);
    for (const std::string& name : names) {
      if (checkpoint_.HasCodes(name) != codes) {
        return absl::UnimplementedError(
            absl::StrCat(checkpoint_.directory(), ": ", names[0], " and ", name,
                         " are one product, but only one of them is quantised"));
      }
      SKIM_RETURN_IF_ERROR(CheckIgnored(name, codes));
    }
    return codes;
  }

  absl::Status CheckIgnored(const std::string& name, bool codes) const {
    const std::string module = name.substr(0, name.rfind('.'));
    const bool ignored = quantization_->Ignores(module);
    // A quantisation is of linear layers, which an embedding is not.
    const bool may_be_plain = ignored || quantization_->HasExpressions() || name == kEmbedding;
    if (codes ? !ignored : may_be_plain) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(
        checkpoint_.directory(), ": ", name, codes ? " is" : " is not",
        " quantised, but quantization_config ", codes ? "ignores " : "does not ignore ", module));
  }

  // Packs in `precision` for rows of `format`, and at its expense.
  absl::Status Add(const Stack& stack, WeightFormat precision, WeightShape shape,
                   WeightFormat format, WeightByFormat* weight) {
    SKIM_ASSIGN_OR_RETURN(
        std::unique_ptr<PackedWeight> packed,
        Pack(stack, precision, shape, &out_.format_bytes[static_cast<size_t>(format)]));
    weight->Add(format, std::move(packed));
    return absl::OkStatus();
  }

  void Count(const std::string& name, int64_t parameters) {
    out_.parameters += static_cast<uint64_t>(parameters);
    read_bytes_ += static_cast<uint64_t>(checkpoint_.StoredBytes(name));
    if (progress_) progress_(std::min(read_bytes_, total_bytes_), total_bytes_);
  }

  const std::optional<QuantizationConfig>& quantization_;
  const Checkpoint& checkpoint_;
  Ops* ops_;
  const std::function<void(uint64_t, uint64_t)>& progress_;
  Weights& out_;
  const uint64_t total_bytes_;
  uint64_t read_bytes_ = 0;
};

absl::StatusOr<LayerWeights> LoadLayer(const ModelConfig& c, int layer, Loader* load) {
  const std::string base = absl::StrCat("model.layers.", layer, ".");
  const std::string attention = base + "self_attn.", mlp = base + "mlp.";
  const std::vector<int64_t> qkv = {c.q_width(), c.kv_width(), c.kv_width()};
  LayerWeights w;
  SKIM_ASSIGN_OR_RETURN(w.input_norm,
                        load->Vector({base + "input_layernorm.weight"}, {c.hidden_size}));
  SKIM_ASSIGN_OR_RETURN(w.qkv, load->Linear({attention + "q_proj.weight", attention + "k_proj.weight",
                                             attention + "v_proj.weight"},
                                            qkv, c.hidden_size));
  if (c.qkv_bias) {
    SKIM_ASSIGN_OR_RETURN(w.qkv_bias,
                          load->Vector({attention + "q_proj.bias", attention + "k_proj.bias",
                                        attention + "v_proj.bias"},
                                       qkv));
  }
  if (c.qk_norm) {
    SKIM_ASSIGN_OR_RETURN(w.q_norm, load->Vector({attention + "q_norm.weight"}, {c.head_dim}));
    SKIM_ASSIGN_OR_RETURN(w.k_norm, load->Vector({attention + "k_norm.weight"}, {c.head_dim}));
  }
  SKIM_ASSIGN_OR_RETURN(w.output, load->Linear({attention + "o_proj.weight"}, {c.hidden_size},
                                               c.q_width()));
  if (c.output_bias) {
    SKIM_ASSIGN_OR_RETURN(w.output_bias, load->Vector({attention + "o_proj.bias"}, {c.hidden_size}));
  }
  SKIM_ASSIGN_OR_RETURN(w.post_norm,
                        load->Vector({base + "post_attention_layernorm.weight"}, {c.hidden_size}));
  const std::vector<int64_t> halves = {c.intermediate_size, c.intermediate_size};
  SKIM_ASSIGN_OR_RETURN(w.gate_up, load->Linear({mlp + "gate_proj.weight", mlp + "up_proj.weight"},
                                                halves, c.hidden_size, WeightShape::kGateUp));
  SKIM_ASSIGN_OR_RETURN(w.down, load->Linear({mlp + "down_proj.weight"}, {c.hidden_size},
                                             c.intermediate_size));
  if (c.mlp_bias) {
    SKIM_ASSIGN_OR_RETURN(w.gate_up_bias,
                          load->Vector({mlp + "gate_proj.bias", mlp + "up_proj.bias"}, halves));
    SKIM_ASSIGN_OR_RETURN(w.down_bias, load->Vector({mlp + "down_proj.bias"}, {c.hidden_size}));
  }
  return w;
}

// The matrices over the vocabulary; `weights` knows its formats. A bf16 head of a tied model
// is its embedding too.
absl::Status LoadVocabulary(const ModelConfig& c, Loader* load, Weights* weights) {
  SKIM_ASSIGN_OR_RETURN(Loader::Stack stack,
                        load->Read({kEmbedding}, {c.vocab_size}, c.hidden_size));
  if (stack.quantized()) {
    return absl::UnimplementedError(absl::StrCat(load->directory(), ": ", stack.name,
                                                 ": a quantised embedding is not supported"));
  }
  const auto pack_embedding = [&]() -> absl::Status {
    SKIM_ASSIGN_OR_RETURN(weights->embedding, load->Pack(stack, WeightFormat::kBf16,
                                                         WeightShape::kPlain,
                                                         &weights->common_bytes));
    weights->embedding_table = weights->embedding.get();
    return absl::OkStatus();
  };
  if (!c.tied_embeddings) {
    SKIM_RETURN_IF_ERROR(pack_embedding());
    stack = {};  // before the next is read
    SKIM_ASSIGN_OR_RETURN(stack, load->Read({"lm_head.weight"}, {c.vocab_size}, c.hidden_size));
  }
  SKIM_ASSIGN_OR_RETURN(weights->head, load->Head(stack));
  if (!c.tied_embeddings) return absl::OkStatus();
  for (const WeightFormat format : weights->formats) {
    const PackedWeight& head = weights->head.In(format);
    if (head.format() == WeightFormat::kBf16) weights->embedding_table = &head;
  }
  return weights->embedding_table ? absl::OkStatus() : pack_embedding();
}

}  // namespace

uint64_t Weights::LayerBytes(WeightFormat format) const {
  uint64_t bytes = 0;
  for (const LayerWeights& layer : layers) {
    for (const WeightByFormat* weight : {&layer.qkv, &layer.output, &layer.gate_up, &layer.down}) {
      bytes += weight->In(format).bytes();
    }
  }
  return bytes / layers.size();
}

absl::StatusOr<Weights> Weights::Load(const ModelConfig& config, const Checkpoint& checkpoint,
                                      std::span<const WeightFormat> formats, Ops* ops,
                                      const std::function<void(uint64_t, uint64_t)>& progress) {
  Weights weights;
  weights.formats.assign(formats.begin(), formats.end());
  Loader load(config, checkpoint, ops, progress, &weights);
  SKIM_RETURN_IF_ERROR(LoadVocabulary(config, &load, &weights));
  for (int layer = 0; layer < config.layers; ++layer) {
    SKIM_ASSIGN_OR_RETURN(LayerWeights loaded, LoadLayer(config, layer, &load));
    weights.layers.push_back(std::move(loaded));
  }
  SKIM_ASSIGN_OR_RETURN(weights.final_norm,
                        load.Vector({"model.norm.weight"}, {config.hidden_size}));
  SKIM_ASSIGN_OR_RETURN(weights.draft_head, DraftHeadWeights::Load(config, checkpoint, ops));
  SKIM_ASSIGN_OR_RETURN(weights.exit_adapters, ExitAdapters::Load(config, checkpoint, ops));
  return weights;
}

}  // namespace skim
