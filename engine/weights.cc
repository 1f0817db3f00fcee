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
  Loader(const Checkpoint& checkpoint, Ops* ops, const std::function<void(uint64_t, uint64_t)>& progress,
         Weights* out)
      : checkpoint_(checkpoint), ops_(ops), progress_(progress), out_(out),
        total_bytes_(static_cast<uint64_t>(checkpoint.total_bytes())) {}

  // Stacks the tensors `names`, whose row counts are `rows`, and packs them as one.
  absl::StatusOr<std::unique_ptr<PackedWeight>> Linear(const std::vector<std::string>& names,
                                                       const std::vector<int64_t>& rows,
                                                       int64_t cols,
                                                       WeightShape shape = WeightShape::kPlain) {
    std::vector<Bf16> stacked;
    int64_t total_rows = 0;
    for (size_t i = 0; i < names.size(); ++i) {
      SKIM_ASSIGN_OR_RETURN(std::vector<Bf16> part,
                            checkpoint_.Bf16Tensor(names[i], {rows[i], cols}));
      if (stacked.empty()) {
        stacked = std::move(part);
      } else {
        stacked.insert(stacked.end(), part.begin(), part.end());
      }
      total_rows += rows[i];
    }
    SKIM_ASSIGN_OR_RETURN(std::unique_ptr<PackedWeight> packed,
                          ops_->PackWeight({stacked.data(), total_rows, cols, cols},
                                           WeightFormat::kBf16, shape));
    out_->bytes += packed->bytes();
    Count(total_rows * cols);
    return packed;
  }

  absl::StatusOr<std::unique_ptr<Buffer>> Vector(const std::vector<std::string>& names,
                                                 const std::vector<int64_t>& sizes) {
    std::vector<float> stacked;
    for (size_t i = 0; i < names.size(); ++i) {
      SKIM_ASSIGN_OR_RETURN(std::vector<float> part,
                            checkpoint_.FloatTensor(names[i], {sizes[i]}));
      stacked.insert(stacked.end(), part.begin(), part.end());
    }
    const size_t bytes = stacked.size() * sizeof(float);
    SKIM_ASSIGN_OR_RETURN(std::unique_ptr<Buffer> buffer, ops_->Allocate(bytes));
    ops_->Upload(buffer->data(), stacked.data(), bytes);
    SKIM_RETURN_IF_ERROR(ops_->Wait());
    out_->bytes += bytes;
    Count(static_cast<int64_t>(stacked.size()));
    return buffer;
  }

  void Count(int64_t parameters) {
    out_->parameters += static_cast<uint64_t>(parameters);
    if (progress_) progress_(std::min(out_->bytes, total_bytes_), total_bytes_);
  }

 private:
  const Checkpoint& checkpoint_;
  Ops* ops_;
  const std::function<void(uint64_t, uint64_t)>& progress_;
  Weights* out_;
  const uint64_t total_bytes_;
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

}  // namespace

absl::StatusOr<Weights> Weights::Load(const ModelConfig& config, const Checkpoint& checkpoint,
                                      Ops* ops,
                                      const std::function<void(uint64_t, uint64_t)>& progress) {
  Weights weights;
  Loader load(checkpoint, ops, progress, &weights);
  const int64_t vocab = config.vocab_size, hidden = config.hidden_size;
  SKIM_ASSIGN_OR_RETURN(weights.head, load.Linear({"model.embed_tokens.weight"}, {vocab}, hidden));
  if (!config.tied_embeddings) {
    weights.embedding = std::move(weights.head);
    SKIM_ASSIGN_OR_RETURN(weights.head, load.Linear({"lm_head.weight"}, {vocab}, hidden));
  }
  for (int layer = 0; layer < config.layers; ++layer) {
    SKIM_ASSIGN_OR_RETURN(LayerWeights loaded, LoadLayer(config, layer, &load));
    weights.layers.push_back(std::move(loaded));
  }
  SKIM_ASSIGN_OR_RETURN(weights.final_norm, load.Vector({"model.norm.weight"}, {hidden}));
  return weights;
}

}  // namespace skim
