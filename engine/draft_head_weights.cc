#include "engine/draft_head_weights.h"

#include <algorithm>
#include <filesystem>
#include <span>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "engine/fingerprint.h"
#include "engine/safetensors.h"

namespace skim {
namespace {

constexpr int64_t kMaxInner = 1 << 17;

class Loader {
 public:
  Loader(const SafetensorsFile& file, Ops* ops, uint64_t* bytes)
      : file_(file), ops_(ops), bytes_(*bytes) {}

  absl::Status Error(const std::string& what) const {
    return absl::InvalidArgumentError(absl::StrCat(file_.path(), ": ", what));
  }

  // The shape's first number, where that is the file's to say.
  absl::StatusOr<int64_t> Rows(const std::string& name, int64_t most) const {
    const auto found = file_.tensors().find(name);
    if (found == file_.tensors().end()) return Error("no tensor " + name);
    const std::vector<int64_t>& shape = found->second.shape;
    if (shape.empty() || shape[0] < 1 || shape[0] > most) {
      return Error(absl::StrCat(name, " has shape [", absl::StrJoin(shape, ", "), "]"));
    }
    return shape[0];
  }

  absl::Status Check(const std::string& name, const std::vector<int64_t>& shape) const {
    const auto found = file_.tensors().find(name);
    if (found == file_.tensors().end()) return Error("no tensor " + name);
    if (found->second.shape == shape) return absl::OkStatus();
    return Error(absl::StrCat(name, " has shape [", absl::StrJoin(found->second.shape, ", "),
                              "], this model needs [", absl::StrJoin(shape, ", "), "]"));
  }

  absl::StatusOr<std::unique_ptr<PackedWeight>> Matrix(const std::string& name, int64_t rows,
                                                       int64_t cols,
                                                       WeightShape shape = WeightShape::kPlain) {
    SKIM_RETURN_IF_ERROR(Check(name, {rows, cols}));
    SKIM_ASSIGN_OR_RETURN(const std::vector<Bf16> values, file_.ReadBf16(name));
    return Pack(values, rows, cols, shape);
  }

  absl::StatusOr<std::unique_ptr<PackedWeight>> Pack(std::span<const Bf16> values, int64_t rows,
                                                     int64_t cols, WeightShape shape) {
    SKIM_ASSIGN_OR_RETURN(
        std::unique_ptr<PackedWeight> packed,
        ops_->PackWeight({values.data(), rows, cols, cols}, WeightFormat::kInt8, shape));
    bytes_ += packed->bytes();
    return packed;
  }

  absl::StatusOr<std::unique_ptr<Buffer>> Vector(std::span<const float> values) {
    SKIM_ASSIGN_OR_RETURN(std::unique_ptr<Buffer> buffer, ops_->Allocate(values.size_bytes()));
    ops_->Upload(buffer->data(), values.data(), values.size_bytes());
    SKIM_RETURN_IF_ERROR(ops_->Wait());
    bytes_ += values.size_bytes();
    return buffer;
  }

  absl::StatusOr<TokenSubset> Vocabulary(int64_t rows, int32_t vocab_size) const {
    SKIM_RETURN_IF_ERROR(Check("vocabulary", {rows}));
    SKIM_ASSIGN_OR_RETURN(const std::vector<int64_t> ids, file_.ReadInt("vocabulary"));
    std::vector<TokenId> tokens;
    for (const int64_t id : ids) {
      if (id < 0 || id >= vocab_size || (!tokens.empty() && id <= tokens.back())) {
        return Error(absl::StrCat("vocabulary: ", id, " is no token, or not behind the last"));
      }
      tokens.push_back(static_cast<TokenId>(id));
    }
    return TokenSubset(std::move(tokens), vocab_size);
  }

 private:
  const SafetensorsFile& file_;
  Ops* ops_;
  uint64_t& bytes_;
};

// The LM head's rows of these tokens.
absl::StatusOr<std::vector<Bf16>> LmRows(const ModelConfig& config, const Checkpoint& checkpoint,
                                         const TokenSubset& vocabulary) {
  const std::string name = config.tied_embeddings ? "model.embed_tokens.weight" : "lm_head.weight";
  if (checkpoint.HasCodes(name)) {
    return absl::UnimplementedError(
        absl::StrCat(checkpoint.directory(), ": ", name,
                     " is quantised; a draft head needs it in floating point"));
  }
  const int64_t hidden = config.hidden_size;
  SKIM_ASSIGN_OR_RETURN(const std::vector<Bf16> all,
                        checkpoint.Bf16Tensor(name, {config.vocab_size, hidden}));
  std::vector<Bf16> rows;
  rows.reserve(static_cast<size_t>(vocabulary.size() * hidden));
  for (const TokenId token : vocabulary.ids()) {
    const auto row = all.begin() + token * hidden;
    rows.insert(rows.end(), row, row + hidden);
  }
  return rows;
}

}  // namespace

absl::StatusOr<std::unique_ptr<DraftHeadWeights>> DraftHeadWeights::Load(
    const ModelConfig& config, const Checkpoint& checkpoint, Ops* ops) {
  const std::string path = absl::StrCat(checkpoint.directory(), "/", kDraftHeadFile);
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return nullptr;
  SKIM_ASSIGN_OR_RETURN(const SafetensorsFile file, SafetensorsFile::Open(path));
  auto head = std::make_unique<DraftHeadWeights>();
  Loader load(file, ops, &head->bytes);
  SKIM_RETURN_IF_ERROR(CheckMadeFor(checkpoint, file, "./run train-head"));
  const int64_t hidden = config.hidden_size;
  SKIM_ASSIGN_OR_RETURN(const int64_t doubled, load.Rows("gate_up", 2 * kMaxInner));
  if (doubled % 2 != 0) return load.Error("gate_up has an odd number of rows");
  const int64_t inner = head->inner = doubled / 2;
  SKIM_ASSIGN_OR_RETURN(head->mix, load.Matrix("mix", hidden, 2 * hidden));
  SKIM_ASSIGN_OR_RETURN(head->gate_up,
                        load.Matrix("gate_up", 2 * inner, 2 * hidden, WeightShape::kGateUp));
  SKIM_ASSIGN_OR_RETURN(head->down, load.Matrix("down", hidden, inner));
  SKIM_ASSIGN_OR_RETURN(head->deep_gate_up,
                        load.Matrix("deep_gate_up", 2 * inner, hidden, WeightShape::kGateUp));
  SKIM_ASSIGN_OR_RETURN(head->deep_down, load.Matrix("deep_down", hidden, inner));
  SKIM_RETURN_IF_ERROR(load.Check("output_norm", {hidden}));
  SKIM_ASSIGN_OR_RETURN(const std::vector<float> norm, file.ReadFloat("output_norm"));
  SKIM_ASSIGN_OR_RETURN(head->output_norm, load.Vector(norm));
  SKIM_ASSIGN_OR_RETURN(head->ones,
                        load.Vector(std::vector<float>(static_cast<size_t>(hidden), 1.0f)));
  SKIM_ASSIGN_OR_RETURN(const int64_t tokens, load.Rows("vocabulary", config.vocab_size));
  SKIM_ASSIGN_OR_RETURN(head->vocabulary, load.Vocabulary(tokens, config.vocab_size));
  SKIM_ASSIGN_OR_RETURN(const std::vector<Bf16> rows, LmRows(config, checkpoint, head->vocabulary));
  SKIM_ASSIGN_OR_RETURN(head->lm_rows, load.Pack(rows, tokens, hidden, WeightShape::kPlain));
  return head;
}

}  // namespace skim
