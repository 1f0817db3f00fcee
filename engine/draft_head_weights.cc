#include "engine/draft_head_weights.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "engine/companion_file.h"

namespace skim {
namespace {

constexpr int64_t kMaxInner = 1 << 17;

absl::StatusOr<TokenSubset> Vocabulary(const CompanionFile& file, int64_t rows,
                                       int32_t vocab_size) {
  SKIM_ASSIGN_OR_RETURN(const std::vector<int64_t> ids, file.Integers("vocabulary", {rows}));
  std::vector<TokenId> tokens;
  for (const int64_t id : ids) {
    if (id < 0 || id >= vocab_size || (!tokens.empty() && id <= tokens.back())) {
      return file.Error(absl::StrCat("vocabulary: ", id, " is no token, or not behind the last"));
    }
    tokens.push_back(static_cast<TokenId>(id));
  }
  return TokenSubset(std::move(tokens), vocab_size);
}

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
  SKIM_ASSIGN_OR_RETURN(const std::unique_ptr<CompanionFile> file,
                        CompanionFile::Open(checkpoint, kDraftHeadFile, "./run train-head", ops));
  if (!file) return nullptr;
  auto head = std::make_unique<DraftHeadWeights>();
  const int64_t hidden = config.hidden_size;
  const auto matrix = [&](const char* name, int64_t rows, int64_t cols,
                          WeightShape shape = WeightShape::kPlain) {
    return file->Matrix(name, rows, cols, WeightFormat::kInt8, shape);
  };
  SKIM_ASSIGN_OR_RETURN(const int64_t doubled, file->Rows("gate_up", 2 * kMaxInner));
  if (doubled % 2 != 0) return file->Error("gate_up has an odd number of rows");
  const int64_t inner = head->inner = doubled / 2;
  SKIM_ASSIGN_OR_RETURN(head->mix, matrix("mix", hidden, 2 * hidden));
  SKIM_ASSIGN_OR_RETURN(head->gate_up,
                        matrix("gate_up", 2 * inner, 2 * hidden, WeightShape::kGateUp));
  SKIM_ASSIGN_OR_RETURN(head->down, matrix("down", hidden, inner));
  SKIM_ASSIGN_OR_RETURN(head->deep_gate_up,
                        matrix("deep_gate_up", 2 * inner, hidden, WeightShape::kGateUp));
  SKIM_ASSIGN_OR_RETURN(head->deep_down, matrix("deep_down", hidden, inner));
  SKIM_ASSIGN_OR_RETURN(head->output_norm, file->Vector("output_norm", hidden));
  SKIM_ASSIGN_OR_RETURN(head->ones,
                        file->Upload(std::vector<float>(static_cast<size_t>(hidden), 1.0f)));
  SKIM_ASSIGN_OR_RETURN(const int64_t tokens, file->Rows("vocabulary", config.vocab_size));
  SKIM_ASSIGN_OR_RETURN(head->vocabulary, Vocabulary(*file, tokens, config.vocab_size));
  SKIM_ASSIGN_OR_RETURN(const std::vector<Bf16> rows, LmRows(config, checkpoint, head->vocabulary));
  SKIM_ASSIGN_OR_RETURN(head->lm_rows, file->Pack(rows, tokens, hidden, WeightFormat::kInt8));
  head->bytes = file->bytes();
  return head;
}

}  // namespace skim
