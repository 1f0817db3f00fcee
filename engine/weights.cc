#include "engine/weights.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace skim {
namespace {

// Reads tensors, hands them to the backend, keeps the totals.
class Loader {
 public:
  Loader(const Checkpoint& checkpoint, Ops* ops,
         const std::function<void(uint64_t, uint64_t)>& progress, Weights* out)
      : checkpoint_(checkpoint), ops_(ops), progress_(progress), out_(*out),
        total_bytes_(static_cast<uint64_t>(checkpoint.total_bytes())) {}

  // A matrix in host memory: the tensors `names`, whose row counts are `rows`, stacked.
  struct Stack {
    std::vector<Bf16> values = {};
    int64_t rows = 0;
    int64_t cols = 0;
    std::string name;  // of the first tensor, for errors
    Matrix<const Bf16> view() const { return {values.data(), rows, cols, cols}; }
  };
  absl::StatusOr<Stack> Read(const std::vector<std::string>& names,
                             const std::vector<int64_t>& rows, int64_t cols) {
    Stack stack{.cols = cols, .name = names[0]};
    for (size_t i = 0; i < names.size(); ++i) {
      SKIM_ASSIGN_OR_RETURN(std::vector<Bf16> part,
                            checkpoint_.Bf16Tensor(names[i], {rows[i], cols}));
      if (stack.values.empty()) {
        stack.values = std::move(part);
      } else {
        stack.values.insert(stack.values.end(), part.begin(), part.end());
      }
      stack.rows += rows[i];
      Count(names[i], rows[i] * cols);
    }
    return stack;
  }

  absl::StatusOr<std::unique_ptr<PackedWeight>> Pack(const Stack& stack, WeightFormat format,
                                                     WeightShape shape, uint64_t* bytes) {
    auto packed = ops_->PackWeight(stack.view(), format, shape);
    if (!packed.ok()) {
      return absl::Status(packed.status().code(),
                          absl::StrCat(stack.name, " as ", std::string(WeightFormatName(format)),
                                       ": ", packed.status().message()));
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
      SKIM_RETURN_IF_ERROR(Add(stack, format, shape, format, &weight));
    }
    return weight;
  }

  absl::StatusOr<WeightByFormat> Head(const Stack& stack) {
    WeightByFormat head;
    for (const WeightFormat format : out_.formats) {
      if (HeadFormat(format) != format) continue;
      SKIM_RETURN_IF_ERROR(Add(stack, format, WeightShape::kPlain, format, &head));
    }
    for (const WeightFormat format : out_.formats) {
      const WeightFormat taken = HeadFormat(format);
      if (!head.Has(taken)) {
        SKIM_RETURN_IF_ERROR(Add(stack, taken, WeightShape::kPlain, format, &head));
      }
      if (taken != format) head.Share(format, taken);
    }
    return head;
  }

  absl::StatusOr<std::unique_ptr<Buffer>> Vector(const std::vector<std::string>& names,
                                                 const std::vector<int64_t>& sizes) {
    std::vector<float> stacked;
    for (size_t i = 0; i < names.size(); ++i) {
      SKIM_ASSIGN_OR_RETURN(std::vector<float> part,
                            checkpoint_.FloatTensor(names[i], {sizes[i]}));
      stacked.insert(stacked.end(), part.begin(), part.end());
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
  // Packs in `format` at the expense of `payer`.
  absl::Status Add(const Stack& stack, WeightFormat format, WeightShape shape, WeightFormat payer,
                   WeightByFormat* weight) {
    SKIM_ASSIGN_OR_RETURN(
        std::unique_ptr<PackedWeight> packed,
        Pack(stack, format, shape, &out_.format_bytes[static_cast<size_t>(payer)]));
    weight->Add(format, std::move(packed));
    return absl::OkStatus();
  }

  void Count(const std::string& name, int64_t parameters) {
    out_.parameters += static_cast<uint64_t>(parameters);
    read_bytes_ += static_cast<uint64_t>(checkpoint_.StoredBytes(name));
    if (progress_) progress_(std::min(read_bytes_, total_bytes_), total_bytes_);
  }

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

// The matrices over the vocabulary; `weights` knows its formats.
absl::Status LoadVocabulary(const ModelConfig& c, Loader* load, Weights* weights) {
  SKIM_ASSIGN_OR_RETURN(Loader::Stack stack, load->Read({"model.embed_tokens.weight"},
                                                        {c.vocab_size}, c.hidden_size));
  const bool has_bf16 = std::ranges::count(weights->formats, WeightFormat::kBf16) > 0;
  if (!c.tied_embeddings || !has_bf16) {
    SKIM_ASSIGN_OR_RETURN(weights->embedding, load->Pack(stack, WeightFormat::kBf16,
                                                         WeightShape::kPlain,
                                                         &weights->common_bytes));
  }
  if (!c.tied_embeddings) {
    stack = {};  // before the next is read
    SKIM_ASSIGN_OR_RETURN(stack, load->Read({"lm_head.weight"}, {c.vocab_size}, c.hidden_size));
  }
  SKIM_ASSIGN_OR_RETURN(weights->head, load->Head(stack));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Weights> Weights::Load(const ModelConfig& config, const Checkpoint& checkpoint,
                                      std::span<const WeightFormat> formats, Ops* ops,
                                      const std::function<void(uint64_t, uint64_t)>& progress) {
  Weights weights;
  weights.formats.assign(formats.begin(), formats.end());
  Loader load(checkpoint, ops, progress, &weights);
  SKIM_RETURN_IF_ERROR(LoadVocabulary(config, &load, &weights));
  for (int layer = 0; layer < config.layers; ++layer) {
    SKIM_ASSIGN_OR_RETURN(LayerWeights loaded, LoadLayer(config, layer, &load));
    weights.layers.push_back(std::move(loaded));
  }
  SKIM_ASSIGN_OR_RETURN(weights.final_norm,
                        load.Vector({"model.norm.weight"}, {config.hidden_size}));
  return weights;
}

}  // namespace skim
