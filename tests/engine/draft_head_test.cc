// The draft head: its arithmetic against the formulas, the rows it goes on from, and files that do
// not fit their model.
#include "engine/draft_head.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <span>
#include <utility>

#include "engine/engine.h"
#include "tests/engine/scheduled_engine.h"
#include "tests/engine/toy_draft_head.h"

namespace skim {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr char kModel[] = "tiny-llama3";
constexpr int64_t kInner = 48;
constexpr int32_t kStride = 3;  // every third token can be drafted

using Row = std::vector<double>;

Row Values(const TestTensor& tensor) {
  if (tensor.dtype == "F32") {
    std::vector<float> floats(tensor.bytes.size() / sizeof(float));
    std::memcpy(floats.data(), tensor.bytes.data(), tensor.bytes.size());
    return Row(floats.begin(), floats.end());
  }
  std::vector<Bf16> values(tensor.bytes.size() / sizeof(Bf16));
  std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
  Row out;
  for (const Bf16 value : values) out.push_back(ToFloat(value));
  return out;
}

Row Product(const Row& matrix, const Row& x) {
  Row y(matrix.size() / x.size());
  for (size_t r = 0; r < y.size(); ++r) {
    for (size_t c = 0; c < x.size(); ++c) y[r] += matrix[r * x.size() + c] * x[c];
  }
  return y;
}

Row Sum(Row a, const Row& b) {
  std::ranges::transform(a, b, a.begin(), std::plus<>());
  return a;
}

Row Normed(Row x, double eps) {
  double squares = 0;
  for (const double value : x) squares += value * value;
  for (double& value : x) value /= std::sqrt(squares / static_cast<double>(x.size()) + eps);
  return x;
}

Row Gated(const Row& x, const Row& gate_up, const Row& down) {
  Row both = Product(gate_up, x);
  Row inner(both.begin(), both.begin() + static_cast<std::ptrdiff_t>(both.size() / 2));
  for (size_t i = 0; i < inner.size(); ++i) {
    inner[i] *= both[inner.size() + i] / (1 + std::exp(-inner[i]));
  }
  return Product(down, inner);
}

// docs/draft_head.md, in double.
class Reference {
 public:
  explicit Reference(ModelWithDraftHead& model) : model_(model) {
    const auto checkpoint = *Checkpoint::Open(model.path());
    const auto& config = model.config();
    const auto table = *checkpoint.FloatTensor("model.embed_tokens.weight",
                                               {config.vocab_size, config.hidden_size});
    table_.assign(table.begin(), table.end());
    const std::string head =
        config.tied_embeddings ? "model.embed_tokens.weight" : "lm_head.weight";
    const auto lm_head = *checkpoint.FloatTensor(head, {config.vocab_size, config.hidden_size});
    lm_head_.assign(lm_head.begin(), lm_head.end());
  }

  Row After(TokenId token, const Row& before) const {
    const Row e = Normed(RowOf(table_, token), eps());
    Row z = e;
    const Row h = Normed(before, eps());
    z.insert(z.end(), h.begin(), h.end());
    const Row x = Sum(Product(Tensor("mix"), z), Gated(z, Tensor("gate_up"), Tensor("down")));
    return Sum(x, Gated(Normed(x, eps()), Tensor("deep_gate_up"), Tensor("deep_down")));
  }

  Row Logits(const Row& row) const {
    std::vector<TokenId> vocabulary;
    for (int32_t token = 0; token < model_.config().vocab_size; token += kStride) {
      vocabulary.push_back(token);
    }
    return Logits(row, vocabulary);
  }

  Row Logits(const Row& row, std::span<const TokenId> tokens) const {
    Row normed = Normed(row, eps());
    const Row weight = Tensor("output_norm");
    for (size_t i = 0; i < normed.size(); ++i) normed[i] *= weight[i];
    Row logits;
    for (const TokenId token : tokens) logits.push_back(Product(RowOf(lm_head_, token), normed)[0]);
    return logits;
  }

 private:
  double eps() const { return model_.config().norm_eps; }
  Row Tensor(const char* name) const { return Values(model_.tensors().at(name)); }
  Row RowOf(const Row& matrix, TokenId token) const {
    const auto begin = matrix.begin() + token * int64_t{model_.config().hidden_size};
    return Row(begin, begin + model_.config().hidden_size);
  }

  ModelWithDraftHead& model_;
  Row table_, lm_head_;
};

// Everything is rounded to int8 and bf16 on the way, and a chain adds its errors up.
void ExpectNear(const Row& want, std::span<const float> got, const std::string& what) {
  ASSERT_EQ(want.size(), got.size());
  double difference = 0, size = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    difference += (want[i] - got[i]) * (want[i] - got[i]);
    size += want[i] * want[i];
  }
  EXPECT_LT(std::sqrt(difference / size), 0.06) << what;
}

struct Loaded {
  std::unique_ptr<Ops> ops;
  Weights weights;
  std::unique_ptr<DraftHead> head;
};

Loaded LoadHead(const ModelWithDraftHead& model, int32_t places,
                WeightFormat format = WeightFormat::kBf16) {
  Loaded loaded;
  loaded.ops = *MakeOps({.backend = "cpu", .threads = 1, .pin_threads = false});
  const std::vector<WeightFormat> formats = {format};
  loaded.weights = *Weights::Load(model.config(), *Checkpoint::Open(model.path()), formats,
                                  loaded.ops.get(), {});
  loaded.head =
      *DraftHead::Create(model.config(), loaded.weights, loaded.ops.get(), places, nullptr);
  return loaded;
}

// As DraftCandidates::own has them, a list for each row.
std::vector<TokenId> Own(const std::vector<std::vector<TokenId>>& rows) {
  std::vector<TokenId> own;
  for (const std::vector<TokenId>& row : rows) {
    own.insert(own.end(), row.begin(), row.end());
    own.resize(own.size() + DraftCandidates::kMostOwn - row.size(), kNoToken);
  }
  return own;
}

TEST(DraftHead, ItsRowsAndLogitsAreThoseOfTheFormulasAlongAChain) {
  ModelWithDraftHead model(kModel);
  model.FillWithNoise(kInner, kStride, 7);
  model.Write();
  const Reference reference(model);
  const Loaded loaded = LoadHead(model, 2);
  const int64_t hidden = model.config().hidden_size;
  std::mt19937 rng(3);
  std::vector<float> rows(static_cast<size_t>(3 * hidden));
  for (float& value : rows) value = std::normal_distribution<float>(0, 4)(rng);
  const std::vector<int32_t> index = {2, 0}, kept_at = {kFeatureRows + 5, 1};
  loaded.head->Keep({rows.data(), 3, hidden, hidden}, index, kept_at);
  ASSERT_TRUE(loaded.ops->Wait().ok());
  std::vector<Row> want;
  for (const int32_t row : index) {
    want.emplace_back(rows.begin() + row * hidden, rows.begin() + (row + 1) * hidden);
  }
  const std::vector<std::vector<TokenId>> own = {{1, 200, 77, 5}, {31, 32, 34, 35, 37, 38, 40}};
  for (int step = 0; step < 4; ++step) {
    const std::string what = "step " + std::to_string(step);
    const std::vector<TokenId> tokens = {11 + 40 * step, 250 - step};
    const Matrix<const float> logits = loaded.head->Run(tokens, kept_at, Own(own));
    for (size_t i = 0; i < tokens.size(); ++i) {
      want[i] = reference.After(tokens[i], want[i]);
      const Row common = reference.Logits(want[i]);
      const std::span<const float> got(logits.Row(static_cast<int64_t>(i)),
                                       static_cast<size_t>(logits.cols));
      ExpectNear(common, got.first(common.size()), what);
      std::vector<float> own_got;
      for (const float logit : got.subspan(common.size(), own[i].size())) {
        own_got.push_back(logit - DraftHead::kOwnBias);
      }
      ExpectNear(reference.Logits(want[i], own[i]), own_got, what + ", own tokens");
      for (const float logit : got.subspan(common.size() + own[i].size())) {
        ASSERT_EQ(logit, -std::numeric_limits<float>::infinity()) << what;
      }
    }
  }
}

TEST(DraftHead, ARowDoesNotDependOnThoseBesideIt) {
  ModelWithDraftHead model(kModel);
  model.FillWithNoise(kInner, kStride, 8);
  model.Write();
  const int32_t places = DraftHead::kMostRows;
  const Loaded together = LoadHead(model, places), alone = LoadHead(model, places);
  const int64_t hidden = model.config().hidden_size;
  std::mt19937 rng(4);
  std::vector<float> rows(static_cast<size_t>(places * hidden));
  for (float& value : rows) value = std::normal_distribution<float>()(rng);
  std::vector<int32_t> index, kept_at;
  std::vector<TokenId> tokens;
  std::vector<std::vector<TokenId>> own(places);
  for (int32_t i = 0; i < places; ++i) {
    index.push_back(i);
    kept_at.push_back(i * kFeatureRows);
    tokens.push_back(static_cast<TokenId>(rng() % 256));
    for (int32_t left = 2 * i; left > 0; --left) {
      own[i].push_back(static_cast<TokenId>(rng() % 256));
    }
  }
  const Matrix<const float> hidden_rows{rows.data(), places, hidden, hidden};
  for (const Loaded* loaded : {&together, &alone}) {
    loaded->head->Keep(hidden_rows, index, kept_at);
    ASSERT_TRUE(loaded->ops->Wait().ok());
  }
  for (int step = 0; step < 2; ++step) {
    const Matrix<const float> all = together.head->Run(tokens, kept_at, Own(own));
    for (int32_t i = 0; i < places; ++i) {
      const Matrix<const float> one = alone.head->Run(
          std::span(tokens).subspan(i, 1), std::span(kept_at).subspan(i, 1), Own({own[i]}));
      ASSERT_EQ(std::memcmp(all.Row(i), one.Row(0), static_cast<size_t>(all.cols) * sizeof(float)),
                0)
          << "row " << i;
    }
  }
}

Request HeadRequest(int32_t prompt_tokens, uint32_t seed) {
  std::mt19937 rng(seed);
  Request request;
  for (int32_t i = 0; i < prompt_tokens; ++i) {
    request.prompt.push_back(static_cast<TokenId>(rng() % 256));
  }
  request.sampling.temperature = 0;
  request.sampling.max_tokens = 60;
  request.speculation.drafter = DrafterKind::kHead;
  request.speculation.max_drafts = 3;
  return request;
}

// Through the scheduler: whatever was accepted before, whoever was preempted or comes beside.
TEST(DraftHead, ItGoesOnFromTheRowBehindTheLastTokenInEveryRound) {
  ModelWithDraftHead model(kModel);
  model.FillWithIdentity();
  model.Write();
  int preempted = 0;
  for (const int32_t pages : {24, 1024}) {
    const auto harness = *EngineHarness::Load(model.path(), {.page_tokens = 16, .kv_pages = pages});
    ScheduledEngine engine(harness.get(), {.max_rows_per_step = 40, .prefix_cache = false});
    int32_t drafts = 0, as_the_row_says = 0;
    std::mt19937 rng(5);
    engine.SetChangeDraft([&](const PlanSequence& draft, TokenId drawn) {
      const TokenId last = draft.drafts.empty() ? draft.tokens.back() : draft.drafts.back();
      // The row stays that of the last known token's draw, whatever is drafted meanwhile.
      ++drafts;
      as_the_row_says += drawn == draft.tokens.back();
      return rng() % 2 == 0 ? last : drawn;
    });
    std::vector<SeqId> ids;
    for (uint32_t i = 0; i < 6; ++i) {
      ids.push_back(engine.Submit(HeadRequest(20 + 9 * static_cast<int32_t>(i), i)));
      engine.Step();
    }
    engine.RunToEnd();
    for (const SeqId id : ids) preempted += engine.client(id).finish->preemptions > 0;
    EXPECT_GT(drafts, 300);
    EXPECT_GT(as_the_row_says, drafts * 95 / 100);  // int8 may swap near ties
  }
  EXPECT_GT(preempted, 0);
}

TEST(DraftHead, WhatStandsInTheTextCanBeDraftedThoughItsVocabularyLacksIt) {
  ModelWithDraftHead model(kModel);
  model.FillWithIdentity(kStride);
  model.Write();
  const auto harness = *EngineHarness::Load(model.path(), {});
  ScheduledEngine engine(harness.get(), {});
  int32_t drafts = 0, as_the_row_says = 0;
  engine.SetChangeDraft([&](const PlanSequence& draft, TokenId drawn) {
    if (draft.tokens.back() % kStride == 0) return drawn;
    ++drafts;
    as_the_row_says += drawn == draft.tokens.back();
    return drawn;
  });
  for (uint32_t i = 0; i < 6; ++i) engine.Submit(HeadRequest(30, i));
  engine.RunToEnd();
  EXPECT_GT(drafts, 100);
  EXPECT_GT(as_the_row_says, drafts * 95 / 100);
}

// Without bf16 there is no table of all the LM head's rows, unless that is the embedding.
TEST(DraftHead, DraftsItsVocabularyAloneWhereTheLmHeadIsRounded) {
  for (const auto& [name, own] :
       {std::pair{"tiny-llama3", true}, std::pair{"tiny-llama2", false}}) {
    ModelWithDraftHead model(name);
    ASSERT_EQ(model.config().tied_embeddings, own) << name;
    model.FillWithNoise(kInner, kStride, 10);
    model.Write();
    const Loaded loaded = LoadHead(model, 1, WeightFormat::kInt8);
    const auto& vocabulary = loaded.weights.draft_head->vocabulary;
    EXPECT_EQ(loaded.head->candidates().own_columns() > 0, own) << name;
    const std::vector<TokenId> tokens = {7};
    const std::vector<int32_t> kept_at = {0};
    EXPECT_EQ(loaded.head->Run(tokens, kept_at, own ? Own({{1}}) : std::vector<TokenId>()).cols,
              vocabulary.size() + loaded.head->candidates().own_columns())
        << name;
  }
}

// The right tokens need not be among those it can draft, and whoever has no place is not drafted
// for. What stands in the texts of others, with whom it is drafted for, is nobody's draft.
TEST(DraftHead, DraftsAreOfItsVocabularyOrTheRequestsTextAndPlacesAreReturned) {
  ModelWithDraftHead model(kModel);
  model.FillWithNoise(kInner, kStride, 9);
  model.Write();
  const auto harness = *EngineHarness::Load(model.path(), {});
  ScheduledEngine engine(harness.get(), {});
  int own_drafts = 0;
  engine.SetChangeDraft([&](const PlanSequence& draft, TokenId drawn) {
    if (drawn % kStride == 0) return drawn;
    ++own_drafts;
    EXPECT_TRUE(std::ranges::count(draft.tokens, drawn) + std::ranges::count(draft.drafts, drawn))
        << drawn;
    return drawn;
  });
  for (int round = 0; round < 3; ++round) {
    std::vector<SeqId> ids;
    for (uint32_t i = 0; i < 70; ++i) {  // there are 64 places
      Request request = HeadRequest(8, i);
      request.sampling.max_tokens = 6;
      request.sampling.temperature = 0.8f;
      request.sampling.seed = i;
      request.sampling.frequency_penalty = 0.5f;
      request.sampling.bias = {{3, 2.0f}, {4, 5.0f}};
      request.sampling.stop_tokens = {5, 6};
      request.sampling.min_tokens = 3;
      ids.push_back(engine.Submit(std::move(request)));
    }
    engine.RunToEnd();
    for (const SeqId id : ids) EXPECT_TRUE(engine.client(id).finish->status.ok());
    EXPECT_GT(engine.client(ids[0]).finish->speculation.total().rounds, 0);
  }
  EXPECT_GT(own_drafts, 0);
}

TEST(DraftHead, NobodyIsDraftedForWithoutAHead) {
  const auto harness = *EngineHarness::Load(GoldenPath(kModel), {});
  ScheduledEngine engine(harness.get(), {});
  const SeqId id = engine.Submit(HeadRequest(20, 1));
  engine.RunToEnd();
  EXPECT_TRUE(engine.client(id).finish->status.ok());
  EXPECT_EQ(engine.client(id).finish->speculation.total().drafted, 0);
}

class DraftHeadFile : public ::testing::Test {
 protected:
  DraftHeadFile() : model_(kModel) { model_.FillWithNoise(kInner, kStride, 1); }
  std::string Refusal() {
    model_.Write();
    return model_.Refusal();
  }
  TestTensor& tensor(const char* name) { return model_.tensors().at(name); }
  ModelWithDraftHead model_;
};

TEST_F(DraftHeadFile, FitsItsModelAndIsTold) {
  EXPECT_EQ(Refusal(), "");
  EngineOptions options;
  options.model_dir = model_.path();
  options.backend.pin_threads = false;
  const auto engine = *Engine::Load(options, {});
  EXPECT_GT(engine->model().draft_head_bytes, 0u);
  EXPECT_GT(engine->executor().kv_geometry().feature_places, 0);
}

TEST_F(DraftHeadFile, OfAnotherModelIsRefused) {
  model_.metadata()["fingerprint"].back() ^= 1;
  EXPECT_THAT(Refusal(), AllOf(HasSubstr(kDraftHeadFile), HasSubstr("other weights")));
}

TEST_F(DraftHeadFile, OfAnotherVersionIsRefused) {
  model_.metadata()["version"] = "2";
  EXPECT_THAT(Refusal(), AllOf(HasSubstr(kDraftHeadFile), HasSubstr("version is \"2\"")));
}

TEST_F(DraftHeadFile, WithoutATensorIsRefused) {
  for (const char* name :
       {"mix", "gate_up", "down", "deep_gate_up", "deep_down", "output_norm", "vocabulary"}) {
    const auto taken = model_.tensors().extract(name);
    EXPECT_THAT(Refusal(), AllOf(HasSubstr(kDraftHeadFile), HasSubstr(name)));
    model_.tensors()[name] = taken.mapped();
  }
}

TEST_F(DraftHeadFile, OfAnotherShapeIsRefused) {
  for (const char* name : {"mix", "gate_up", "down", "deep_gate_up", "deep_down", "output_norm"}) {
    const TestTensor kept = tensor(name);
    std::ranges::reverse(tensor(name).shape);
    tensor(name).shape.push_back(1);
    EXPECT_THAT(Refusal(), AllOf(HasSubstr(kDraftHeadFile), HasSubstr(name))) << name;
    tensor(name) = kept;
  }
  tensor("gate_up") = TestTensor::Of("BF16", {1, 2}, std::vector<Bf16>(2));
  EXPECT_THAT(Refusal(), HasSubstr("gate_up has an odd number of rows"));
}

TEST_F(DraftHeadFile, WithTokensThatAreNoneOrOutOfOrderIsRefused) {
  const int32_t size = model_.config().vocab_size;
  for (const std::vector<int32_t>& ids : {std::vector{-1, 4}, {3, size}, {4, 4}, {5, 2}}) {
    tensor("vocabulary") = TestTensor::Of("I32", {2}, ids);
    EXPECT_THAT(Refusal(), AllOf(HasSubstr(kDraftHeadFile), HasSubstr("vocabulary")));
  }
  tensor("vocabulary") = TestTensor::Of("I32", {0}, std::vector<int32_t>());
  EXPECT_THAT(Refusal(), HasSubstr("vocabulary"));
}

TEST_F(DraftHeadFile, WithNumbersThatAreNotFiniteIsRefused) {
  const Bf16 nan{0x7fc0};
  std::memcpy(tensor("down").bytes.data(), &nan, sizeof nan);
  EXPECT_THAT(Refusal(), AllOf(HasSubstr(kDraftHeadFile), HasSubstr("down")));
}

}  // namespace
}  // namespace skim
