// Exit adapters: their arithmetic against the formula, who goes through them, and files that do not
// fit their model.
#include "engine/exit_adapters.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "kernels/cpu/isa.h"
#include "tests/engine/copied_model.h"
#include "tests/engine/scheduled_engine.h"

namespace skim {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr char kModel[] = "tiny-llama-bias";  // three layers, with biases; an untied head
constexpr int32_t kLayers = 3;

struct Row {
  TokenId token = 0;
  int32_t leave = 0;
  bool draft = true;
  WeightFormat format = WeightFormat::kBf16;
};

// Each row in a sequence of its own.
std::vector<std::vector<float>> LogitsOf(EngineHarness* harness, const std::vector<Row>& rows) {
  std::vector<HarnessSequence> sequences;
  for (const Row& row : rows) {
    sequences.push_back(harness->NewSequence({row.token}));
    harness->ReservePages(&sequences.back(), 1);
  }
  StepPlan plan;
  for (size_t i = 0; i < rows.size(); ++i) {
    PlanSequence entry = harness->Entry(sequences[i], plan.rows(), 1);
    entry.draft = rows[i].draft;
    entry.logits = LogitsWanted::kLast;
    entry.draws = 1;
    entry.weight_format = rows[i].format;
    plan.AddRow(rows[i].token, 0, 0, rows[i].leave);
    plan.sequences.push_back(std::move(entry));
  }
  StepResult result;
  const absl::Status status = harness->executor().Execute(plan, &result);
  EXPECT_TRUE(status.ok()) << status;
  std::vector<std::vector<float>> logits;
  for (const HarnessSequence& sequence : sequences) {
    logits.push_back(harness->Logits(sequence.id, 0));
  }
  return logits;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

bool IsOf(const std::string& name, int32_t layer) {
  return name.starts_with("model.layers." + std::to_string(layer) + ".");
}

// What attention and MLP add to the residual stream.
bool IsOutput(const std::string& name) {
  return name.find(".o_proj.") != std::string::npos ||
         name.find(".down_proj.") != std::string::npos;
}

class ExitAdaptersOn : public ::testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<EngineHarness> Load(const CopiedModel& model) {
    auto harness = EngineHarness::Load(
        model.path(), {.isa = GetParam(), .formats = {WeightFormat::kBf16, WeightFormat::kInt8}});
    EXPECT_TRUE(harness.ok()) << harness.status();
    return *std::move(harness);
  }
};

std::vector<double> Normed(std::vector<double> x, double eps) {
  double squares = 0;
  for (const double value : x) squares += value * value;
  for (double& value : x) value /= std::sqrt(squares / static_cast<double>(x.size()) + eps);
  return x;
}

// The first layer adds nothing here, so rows leave it as they were embedded.
TEST_P(ExitAdaptersOn, ADraftIsThatOfTheFormula) {
  CopiedModel model(kModel);
  model.ChangeWeights([](const std::string& name, std::vector<float>* values) {
    if (IsOf(name, 0) && IsOutput(name)) std::ranges::fill(*values, 0);
    for (float& value : *values) value = ToFloat(ToBf16(value));
  });
  const auto& config = model.config();
  const size_t hidden = static_cast<size_t>(config.hidden_size);
  std::mt19937 rng(1);
  std::vector<Bf16> weight;
  std::vector<float> bias;
  std::normal_distribution<float> values;
  for (size_t i = 0; i < hidden * hidden; ++i) weight.push_back(ToBf16(values(rng) / 7));
  for (size_t i = 0; i < hidden; ++i) bias.push_back(values(rng) / 2);
  model.WriteBeside(
      kExitAdapterFile,
      {{"1.weight", TestTensor::Of("BF16", {config.hidden_size, config.hidden_size}, weight)},
       {"1.bias", TestTensor::Of("F32", {config.hidden_size}, bias)}});
  const auto checkpoint = *Checkpoint::Open(model.path());
  const std::vector<int64_t> table = {config.vocab_size, config.hidden_size};
  const auto embedding = *checkpoint.FloatTensor("model.embed_tokens.weight", table);
  const auto head = *checkpoint.FloatTensor("lm_head.weight", table);
  const auto norm = *checkpoint.FloatTensor("model.norm.weight", {config.hidden_size});
  const auto logits_of = [&](const std::vector<double>& row) {
    const std::vector<double> normed = Normed(row, config.norm_eps);
    std::vector<double> logits(static_cast<size_t>(config.vocab_size));
    for (size_t v = 0; v < logits.size(); ++v) {
      for (size_t i = 0; i < hidden; ++i) logits[v] += head[v * hidden + i] * norm[i] * normed[i];
    }
    return logits;
  };
  const auto apart = [](const std::vector<double>& a, std::span<const float> b) {
    double difference = 0, size = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      difference += (a[i] - b[i]) * (a[i] - b[i]);
      size += a[i] * a[i];
    }
    return std::sqrt(difference / size);
  };

  const auto harness = Load(model);
  for (const TokenId token : {3, 77, 200, 268}) {
    const auto begin = embedding.begin() + static_cast<std::ptrdiff_t>(token * hidden);
    const std::vector<double> left(begin, begin + static_cast<std::ptrdiff_t>(hidden));
    const std::vector<double> normed = Normed(left, config.norm_eps);
    std::vector<double> adapted = left;
    for (size_t r = 0; r < hidden; ++r) {
      for (size_t c = 0; c < hidden; ++c) adapted[r] += ToFloat(weight[r * hidden + c]) * normed[c];
      adapted[r] += bias[r];
    }
    const std::vector<float> got = LogitsOf(harness.get(), {{token, 1}})[0];
    EXPECT_LT(apart(logits_of(adapted), got), 0.03) << "token " << token;  // its product is int8
    EXPECT_GT(apart(logits_of(left), got), 0.3) << "token " << token;
  }
}

TEST_P(ExitAdaptersOn, OneOfZerosLeavesTheBitsOfDraftsAsTheyAre) {
  const CopiedModel without(kModel);
  CopiedModel with(kModel);
  CopiedModel::Tensors tensors = NoisyAdapters(with.config(), {1, 2}, 1);
  for (auto& [name, tensor] : tensors) std::ranges::fill(tensor.bytes, '\0');
  with.WriteBeside(kExitAdapterFile, tensors);
  const std::vector<Row> rows = {{5, 1}, {9, 2}, {13, 2, true, WeightFormat::kInt8}, {200, 1}};
  const auto want = LogitsOf(Load(without).get(), rows), got = LogitsOf(Load(with).get(), rows);
  for (size_t i = 0; i < rows.size(); ++i) EXPECT_TRUE(SameBits(want[i], got[i])) << "row " << i;
}

// Drafts of all exits and rows that are no drafts, mixed, in more than one part of the head.
TEST_P(ExitAdaptersOn, NobodyElseGoesThroughOneAndARowDoesNotDependOnThoseBesideIt) {
  const CopiedModel without(kModel);
  CopiedModel with(kModel);
  with.WriteBeside(kExitAdapterFile, NoisyAdapters(with.config(), {1}, 3));
  std::mt19937 rng(4);
  std::vector<Row> rows;
  for (int i = 0; i < 100; ++i) {
    const auto leave = 1 + static_cast<int32_t>(rng() % kLayers);
    rows.push_back({static_cast<TokenId>(rng() % 256), leave, leave < kLayers || rng() % 2 == 0,
                    rng() % 2 == 0 ? WeightFormat::kBf16 : WeightFormat::kInt8});
  }
  const auto adapting = Load(with), plain = Load(without);
  const auto together = LogitsOf(adapting.get(), rows), as_they_are = LogitsOf(plain.get(), rows);
  for (size_t i = 0; i < rows.size(); ++i) {
    EXPECT_TRUE(SameBits(together[i], LogitsOf(adapting.get(), {rows[i]})[0])) << "row " << i;
    EXPECT_EQ(SameBits(together[i], as_they_are[i]), rows[i].leave != 1) << "row " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Paths, ExitAdaptersOn, ::testing::ValuesIn([] {
                           std::vector<std::string> names;
                           for (const Isa isa : SupportedIsas()) names.emplace_back(IsaName(isa));
                           return names;
                         }()),
                         [](const auto& info) { return info.param; });

struct Asked {
  std::vector<TokenId> tokens;
  DraftCounts drafts;
};

Asked Ask(const CopiedModel& model, const SpeculationPolicy& policy) {
  const auto harness =
      *EngineHarness::Load(model.path(), {.formats = {WeightFormat::kBf16, WeightFormat::kInt8}});
  ScheduledEngine engine(harness.get(), {});
  Request request;
  for (TokenId token = 0; token < 30; ++token) request.prompt.push_back(token * 7 % 250);
  request.sampling.temperature = 0;
  request.sampling.max_tokens = 60;
  request.speculation = policy;
  const SeqId id = engine.Submit(std::move(request));
  engine.RunToEnd();
  const auto& client = engine.client(id);
  EXPECT_TRUE(client.finish && client.finish->status.ok());
  return {client.tokens, client.finish->speculation.total()};
}

// Layers above the first add the same to every row, which its adapter knows and nobody else.
TEST(ExitAdapters, AnExitThatLacksWhatItsAdapterKnowsDraftsRightWithIt) {
  std::vector<float> added;
  const auto build = [&](CopiedModel* model) {
    added.assign(static_cast<size_t>(model->config().hidden_size), 0);
    model->ChangeWeights([&](const std::string& name, std::vector<float>* values) {
      if (IsOf(name, 0) || !IsOutput(name)) return;
      const bool bias = name.ends_with(".bias");
      for (size_t i = 0; i < values->size(); ++i) {
        (*values)[i] *= bias ? 40.0f : 0.0f;
        if (bias) added[i] += (*values)[i];
      }
    });
  };
  CopiedModel without(kModel), with(kModel);
  build(&without);
  build(&with);
  CopiedModel::Tensors tensors = NoisyAdapters(with.config(), {1}, 1);
  std::ranges::fill(tensors.at("1.weight").bytes, '\0');
  tensors.at("1.bias") = TestTensor::Of("F32", {with.config().hidden_size}, added);
  with.WriteBeside(kExitAdapterFile, tensors);

  SpeculationPolicy policy;
  policy.drafter = DrafterKind::kSelf;
  policy.exit_layer = 1;
  policy.max_drafts = 4;
  const std::vector<TokenId> plain = Ask(without, {}).tokens;
  const Asked raw = Ask(without, policy), adapted = Ask(with, policy);
  EXPECT_EQ(plain, raw.tokens);
  EXPECT_EQ(plain, adapted.tokens);
  EXPECT_LT(raw.drafts.accepted, raw.drafts.drafted / 2);
  EXPECT_GT(adapted.drafts.drafted, 40);
  EXPECT_EQ(adapted.drafts.accepted, adapted.drafts.drafted);
}

class ExitAdapterFile : public ::testing::Test {
 protected:
  ExitAdapterFile() : tensors_(NoisyAdapters(model_.config(), {1, 2}, 1)) {}
  std::string Refusal() {
    model_.WriteBeside(kExitAdapterFile, tensors_);
    return model_.Refusal();
  }
  CopiedModel model_{kModel};
  CopiedModel::Tensors tensors_;
};

TEST_F(ExitAdapterFile, FitsItsModelAndIsTold) {
  EXPECT_EQ(Refusal(), "");
  EngineOptions options;
  options.model_dir = model_.path();
  options.backend.pin_threads = false;
  const auto with = *Engine::Load(options, {});
  EXPECT_THAT(with->model().adapted_exits, ElementsAre(1, 2));
  std::filesystem::remove(model_.path() + "/" + kExitAdapterFile);
  const auto without = *Engine::Load(options, {});
  EXPECT_THAT(without->model().adapted_exits, IsEmpty());
  EXPECT_EQ(without->model().exit_adapter_bytes, 0u);
  // A byte a number at least.
  const auto hidden = static_cast<uint64_t>(model_.config().hidden_size);
  EXPECT_GE(with->model().exit_adapter_bytes, 2 * hidden * hidden);
  EXPECT_EQ(with->model().weight_bytes,
            without->model().weight_bytes + with->model().exit_adapter_bytes);
}

TEST_F(ExitAdapterFile, OfAnotherModelOrVersionIsRefused) {
  model_.metadata()["fingerprint"].back() ^= 1;
  EXPECT_THAT(Refusal(), AllOf(HasSubstr(kExitAdapterFile), HasSubstr("other weights"),
                               HasSubstr("./run calibrate --exit-adapters")));
  model_.metadata()["version"] = "2";
  EXPECT_THAT(Refusal(), AllOf(HasSubstr(kExitAdapterFile), HasSubstr("version is \"2\"")));
}

TEST_F(ExitAdapterFile, WithoutATensorIsRefused) {
  for (const char* name : {"1.weight", "2.bias"}) {
    const auto taken = tensors_.extract(name);
    EXPECT_THAT(Refusal(),
                AllOf(HasSubstr(kExitAdapterFile), HasSubstr("no tensor"), HasSubstr(name)));
    tensors_[name] = taken.mapped();
  }
}

TEST_F(ExitAdapterFile, WithNothingInItIsRefused) {
  tensors_.clear();
  EXPECT_THAT(Refusal(), AllOf(HasSubstr(kExitAdapterFile), HasSubstr("no adapter")));
}

TEST_F(ExitAdapterFile, OfAnotherShapeIsRefused) {
  for (const char* name : {"1.weight", "1.bias", "2.weight", "2.bias"}) {
    const TestTensor kept = tensors_.at(name);
    tensors_.at(name).shape.push_back(1);
    EXPECT_THAT(Refusal(),
                AllOf(HasSubstr(kExitAdapterFile), HasSubstr(name), HasSubstr("this model needs")));
    tensors_.at(name) = kept;
  }
}

TEST_F(ExitAdapterFile, WithAnExitThatIsNoneIsRefused) {
  for (const std::string exit : {"0", "3", "4", "-1"}) {
    const auto kept = tensors_;
    tensors_[exit + ".bias"] = tensors_.at("1.bias");
    tensors_[exit + ".weight"] = tensors_.at("1.weight");
    EXPECT_THAT(Refusal(), AllOf(HasSubstr(kExitAdapterFile), HasSubstr(exit + ".bias"),
                                 HasSubstr("layers 1 to 2")));
    tensors_ = kept;
  }
}

TEST_F(ExitAdapterFile, WithATensorOfNoAdapterIsRefused) {
  for (const std::string name :
       {"1.scale", "01.weight", "1", "weight", "99999999999.bias", " 1.bias", "1.weight.bias"}) {
    tensors_[name] = tensors_.at("1.bias");
    EXPECT_THAT(Refusal(), AllOf(HasSubstr(kExitAdapterFile), HasSubstr(name),
                                 HasSubstr("no tensor of an exit adapter")));
    tensors_.erase(name);
  }
}

TEST_F(ExitAdapterFile, WithNumbersThatAreNotFiniteIsRefused) {
  const Bf16 nan{0x7fc0};
  const float infinite = std::numeric_limits<float>::infinity();
  const CopiedModel::Tensors kept = tensors_;
  std::memcpy(tensors_.at("1.weight").bytes.data(), &nan, sizeof nan);
  EXPECT_THAT(Refusal(), AllOf(HasSubstr(kExitAdapterFile), HasSubstr("1.weight")));
  tensors_ = kept;
  std::memcpy(tensors_.at("2.bias").bytes.data(), &infinite, sizeof infinite);
  EXPECT_THAT(Refusal(), AllOf(HasSubstr(kExitAdapterFile), HasSubstr("2.bias")));
}

}  // namespace
}  // namespace skim
