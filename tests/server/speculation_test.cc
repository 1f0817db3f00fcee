// Speculation as a client sees it: what is refused by which field, and what the final message,
// the model's description and the metrics tell.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "server/speculation_saved.h"
#include "tests/server/test_server.h"

namespace skim {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// The model says its prompt again and again.
v1::GenerateRequest Ask(const std::string& text = "0123456789abcdef", uint32_t max_tokens = 40) {
  v1::GenerateRequest request = EndlessRequest(text, max_tokens);
  request.mutable_sampling()->set_temperature(0);
  return request;
}

TEST(ServedSpeculation, LookupSaysTheSameInFewerSteps) {
  TestServer server;
  const Outcome plain = server.Generate(Ask());
  EXPECT_FALSE(plain.only().final.has_speculation());
  const double steps = server.Metric("skim_step_rows");
  v1::GenerateRequest request = Ask();
  request.mutable_speculation()->mutable_lookup();
  const Outcome outcome = server.Generate(request);
  ASSERT_TRUE(outcome.status.ok()) << outcome.status.error_message();
  EXPECT_EQ(outcome.only().text, plain.only().text);
  EXPECT_EQ(outcome.only().final.usage().generated_tokens(), 40u);
  const double fewer = 2 * steps - server.Metric("skim_step_rows");
  EXPECT_GT(fewer, steps / 4);

  const v1::SpeculationOutcome& told = outcome.only().final.speculation();
  ASSERT_EQ(told.sources_size(), 1);
  EXPECT_EQ(told.sources(0).drafter(), v1::SpeculationOutcome::DRAFTER_LOOKUP);
  const uint32_t rounds = told.sources(0).rounds(), accepted = told.sources(0).accepted_tokens();
  EXPECT_GT(accepted, 20u);
  EXPECT_EQ(told.draft_rows(), 0u);
  EXPECT_EQ(told.draft_tokens_at(0), rounds);
  EXPECT_LE(told.accepted_tokens_at(3), told.accepted_tokens_at(0));
  EXPECT_DOUBLE_EQ(told.tokens_per_round(), 1 + double{1} * accepted / rounds);
  // Of a model with two layers of 1500 bytes and a head of 1000.
  EXPECT_EQ(told.layer_passes_saved(), 2 * fewer);
  EXPECT_EQ(told.weight_bytes_saved(), 4000 * fewer);

  const std::map<std::string, std::string> lookup = {{"drafter", "lookup"}};
  EXPECT_EQ(server.Metric("skim_speculation_rounds_total", lookup), rounds);
  EXPECT_EQ(server.Metric("skim_draft_tokens_accepted_total", lookup), accepted);
  EXPECT_EQ(server.Metric("skim_draft_tokens_total", lookup), told.sources(0).draft_tokens());
  EXPECT_EQ(server.Metric("skim_verify_rows_total"), told.sources(0).draft_tokens());
  EXPECT_EQ(server.Metric("skim_draft_tokens_by_position_total", {{"position", "1"}}), rounds);
  EXPECT_EQ(server.Metric("skim_draft_tokens_accepted_by_position_total"), accepted);
}

TEST(ServedSpeculation, SelfDraftsInTheSmallestFormatOrFromALayer) {
  TestServer server;
  const Outcome plain = server.Generate(Ask("0123456789abcdef", 41));
  v1::GenerateRequest request = Ask("0123456789abcdef", 41);
  request.mutable_speculation()->mutable_self();
  request.mutable_speculation()->set_max_draft_tokens(3);
  const double int8_rows = server.Metric("skim_rows_total", {{"format", "int8"}});
  const double steps = server.Metric("skim_step_rows");
  const Outcome low = server.Generate(request);
  const double fewer = 2 * steps - server.Metric("skim_step_rows");
  EXPECT_EQ(low.only().text, plain.only().text);
  const v1::SpeculationOutcome& told = low.only().final.speculation();
  EXPECT_EQ(told.sources(0).drafter(), v1::SpeculationOutcome::DRAFTER_SELF);
  EXPECT_EQ(told.draft_rows(), told.sources(0).draft_tokens());
  EXPECT_EQ(told.draft_tokens_at_size(), 3);
  EXPECT_DOUBLE_EQ(told.tokens_per_round(), 4);
  EXPECT_EQ(server.Metric("skim_rows_total", {{"format", "int8"}}) - int8_rows, told.draft_rows());
  EXPECT_EQ(server.Metric("skim_draft_rows_total"), told.draft_rows());
  // All drafts are right, so each saves a step of 4000 bytes and costs a pass of 2000.
  EXPECT_EQ(fewer, told.draft_rows());
  EXPECT_EQ(told.layer_passes_saved(), 0);
  EXPECT_EQ(told.weight_bytes_saved(), 2000 * fewer);

  v1::Speculation::SelfDraft* self = request.mutable_speculation()->mutable_self();
  self->set_exit_layer(1);
  self->set_weights(v1::WEIGHT_FORMAT_BF16);
  const Outcome early = server.Generate(request);
  EXPECT_EQ(early.only().text, plain.only().text);
  // A draft pass of one layer is half the layers, and a whole head.
  EXPECT_EQ(early.only().final.speculation().layer_passes_saved(), fewer);
  EXPECT_EQ(early.only().final.speculation().weight_bytes_saved(), 1500 * fewer);

  // So is one that skips one of two, though its rows leave nothing to be gone on from.
  self->clear_exit_layer();
  self->add_skipped_layers(1);
  const Outcome skipping = server.Generate(request);
  EXPECT_EQ(skipping.only().text, plain.only().text);
  EXPECT_EQ(skipping.only().final.speculation().layer_passes_saved(), fewer);
}

// A round of one wrong draft yields what a step does, and the draft has been paid for.
TEST(SpeculationSavedTest, IsNegativeWhereDraftsCostMoreThanTheySave) {
  ModelInfo model;
  model.layers = 10;
  model.weights = {{WeightFormat::kBf16, 0, 100, 30}, {WeightFormat::kInt4, 0, 25, 15}};
  SpeculationReport report;
  DraftCounts& counts = report.by_source[SelfSource(WeightFormat::kInt4)];
  counts = {.rounds = 3, .drafted = 3, .accepted = 0, .passes = 3, .layers = 12, .tokens = 3};
  SpeculationSaved saved = SavedBySpeculation(report, WeightFormat::kBf16, model);
  EXPECT_EQ(saved.layer_passes, -12);
  EXPECT_EQ(saved.weight_bytes, -12 * 25 - 3 * 15);
  // Two drafts from text were right: two steps less.
  report.by_source[0] = {.rounds = 1, .drafted = 4, .accepted = 2, .tokens = 3};
  saved = SavedBySpeculation(report, WeightFormat::kBf16, model);
  EXPECT_EQ(saved.layer_passes, 2 * 10 - 12);
  EXPECT_EQ(saved.weight_bytes, 2 * (10 * 100 + 30) - 12 * 25 - 3 * 15);
}

TEST(SpeculationSavedTest, ADraftModelsBytesCountAndItsLayersAreNotTheModels) {
  ModelInfo model;
  model.layers = 10;
  model.weights = {{WeightFormat::kBf16, 0, 100, 30}};
  model.draft_model_step_bytes = 200;
  SpeculationReport report;
  DraftCounts& counts = report.by_source[kDraftModelSource];
  counts = {.rounds = 2,
            .drafted = 8,
            .accepted = 7,
            .passes = 8,
            .catch_up_rows = 50,
            .catch_ups = 3,
            .tokens = 9};
  const SpeculationSaved saved = SavedBySpeculation(report, WeightFormat::kBf16, model);
  EXPECT_EQ(saved.layer_passes, 7 * 10);
  EXPECT_EQ(saved.weight_bytes, 7 * (10 * 100 + 30) - (8 + 3) * 200);
  // It may have read a long prompt for nothing.
  counts = {.catch_up_rows = 1000, .catch_ups = 2};
  EXPECT_EQ(SavedBySpeculation(report, WeightFormat::kBf16, model).weight_bytes, -2 * 200);
}

// What is told of an answer with three drafts a round, which is that without drafts, and how many
// rows in bf16 it took.
struct Drafted {
  v1::SpeculationOutcome told;
  double bf16_rows = 0;
};

Drafted DraftedInThrees(TestServer* server, v1::GenerateRequest request) {
  const auto bf16_rows = [&] { return server->Metric("skim_rows_total", {{"format", "bf16"}}); };
  v1::GenerateRequest plainly = request;
  plainly.clear_speculation();
  const Outcome plain = server->Generate(plainly);
  request.mutable_speculation()->set_max_draft_tokens(3);
  const double before = bf16_rows();
  const Outcome outcome = server->Generate(request);
  EXPECT_TRUE(outcome.status.ok()) << outcome.status.error_message();
  if (!outcome.status.ok()) return {};
  EXPECT_EQ(outcome.only().text, plain.only().text);
  return {outcome.only().final.speculation(), bf16_rows() - before};
}

TEST(ServedSpeculation, TheHeadDraftsWhereTheModelHasOne) {
  TestServerOptions options;
  options.draft_head = true;
  TestServer server(options);
  v1::GenerateRequest request = Ask("0123456789abcdef", 41);
  request.mutable_speculation()->mutable_head();
  const auto [told, bf16_rows] = DraftedInThrees(&server, request);
  ASSERT_EQ(told.sources_size(), 1);
  EXPECT_EQ(told.sources(0).drafter(), v1::SpeculationOutcome::DRAFTER_HEAD);
  EXPECT_EQ(told.sources(0).weights(), v1::WEIGHT_FORMAT_UNSPECIFIED);
  EXPECT_EQ(told.draft_rows(), told.sources(0).draft_tokens());
  EXPECT_DOUBLE_EQ(told.tokens_per_round(), 4);
  EXPECT_EQ(server.Metric("skim_draft_tokens_accepted_total", {{"drafter", "head"}}),
            told.sources(0).accepted_tokens());
  EXPECT_EQ(server.Metric("skim_draft_rows_total"), told.draft_rows());
  // Its rows run in no weight format of the model.
  EXPECT_EQ(bf16_rows, 16 + 1 + (told.sources(0).rounds() - 1) + told.sources(0).draft_tokens());

  grpc::ClientContext context;
  v1::GetModelResponse model;
  ASSERT_TRUE(server.stub().GetModel(&context, {}, &model).ok());
  EXPECT_THAT(model.drafters(), ElementsAre("lookup", "self", "head", "auto"));
  EXPECT_EQ(model.draft_head_bytes(), 100u);
}

TEST(ServedSpeculation, AHeadThatIsNotThereIsRefusedWithWhatMakesOne) {
  TestServer server;
  v1::GenerateRequest request = Ask();
  request.mutable_speculation()->mutable_head();
  const grpc::Status status = server.Generate(request).status;
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(ViolatedField(status), "speculation.head");
  EXPECT_THAT(status.error_message(), HasSubstr("./run train-head"));
}

TEST(ServedSpeculation, ExitsWithAnAdapterAreTold) {
  for (const bool there : {false, true}) {
    TestServerOptions options;
    options.exit_adapter = there;
    TestServer server(options);
    grpc::ClientContext context;
    v1::GetModelResponse model;
    ASSERT_TRUE(server.stub().GetModel(&context, {}, &model).ok());
    EXPECT_THAT(model.adapted_exits(), ElementsAreArray(std::vector<uint32_t>(there ? 1 : 0, 1)));
    EXPECT_EQ(model.exit_adapter_bytes(), there ? 70u : 0u);
  }
}

TEST(ServedSpeculation, TheDraftModelDraftsAndTellsWhatItRan) {
  TestServerOptions options;
  options.draft_model = true;
  TestServer server(options);
  const std::string text(40, 'x');
  v1::GenerateRequest request = Ask(text, 41);
  request.mutable_speculation()->mutable_draft_model();
  const auto [told, bf16_rows] = DraftedInThrees(&server, request);
  ASSERT_EQ(told.sources_size(), 1);
  const v1::SpeculationOutcome::Source& source = told.sources(0);
  EXPECT_EQ(source.drafter(), v1::SpeculationOutcome::DRAFTER_DRAFT_MODEL);
  EXPECT_EQ(source.weights(), v1::WEIGHT_FORMAT_UNSPECIFIED);
  EXPECT_EQ(source.draft_rows(), source.draft_tokens());
  EXPECT_EQ(source.accepted_tokens(), source.draft_tokens());
  EXPECT_GT(told.tokens_per_round(), 3.5);  // of four; the last round is shorter
  // The prompt, and what is not a draft of the text, each once.
  EXPECT_GE(source.catch_up_rows(), text.size() - 1);
  EXPECT_LE(source.catch_up_rows() + source.draft_rows(), text.size() + 41);
  EXPECT_EQ(server.Metric("skim_draft_tokens_accepted_total", {{"drafter", "draft-model"}}),
            source.accepted_tokens());
  EXPECT_EQ(server.Metric("skim_draft_rows_total"), told.draft_rows());
  EXPECT_EQ(server.Metric("skim_draft_catch_up_rows_total"), source.catch_up_rows());
  // Each accepted draft saved a step of two layers; what the draft model read has been paid.
  EXPECT_EQ(told.layer_passes_saved(), 2 * source.accepted_tokens());
  EXPECT_EQ(told.weight_bytes_saved(),
            4000 * int64_t{source.accepted_tokens()} - 80 * (int64_t{source.draft_rows()} + 1));
  // Its rows run in no weight format of the model.
  EXPECT_LE(bf16_rows, 40 + 41);

  grpc::ClientContext context;
  v1::GetModelResponse model;
  ASSERT_TRUE(server.stub().GetModel(&context, {}, &model).ok());
  EXPECT_THAT(model.drafters(), ElementsAre("lookup", "self", "draft-model", "auto"));
  EXPECT_EQ(model.draft_model_bytes(), 90u);
  EXPECT_EQ(model.draft_model_step_bytes(), 80u);
}

TEST(ServedSpeculation, ADraftModelThatIsNotThereOrNotServedIsRefused) {
  v1::GenerateRequest request = Ask();
  request.mutable_speculation()->mutable_draft_model();
  {
    TestServer server;
    const grpc::Status status = server.Generate(request).status;
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
    EXPECT_EQ(ViolatedField(status), "speculation.draft_model");
    EXPECT_THAT(status.error_message(), HasSubstr("skimd --draft-model"));
  }
  TestServerOptions options;
  options.draft_model = true;
  options.limits.drafters = {DrafterKind::kLookup};
  TestServer server(options);
  const grpc::Status status = server.Generate(request).status;
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(ViolatedField(status), "speculation.draft_model");
}

TEST(ServedSpeculation, AutoTellsWhoseDraftsItTook) {
  TestServer server;
  const Outcome plain = server.Generate(Ask());
  v1::GenerateRequest request = Ask();
  request.mutable_speculation()->mutable_auto_();
  const Outcome outcome = server.Generate(request);
  ASSERT_TRUE(outcome.status.ok()) << outcome.status.error_message();
  EXPECT_EQ(outcome.only().text, plain.only().text);
  const v1::SpeculationOutcome& told = outcome.only().final.speculation();
  ASSERT_GT(told.sources_size(), 0);
  uint32_t drafted = 0, rows = 0;
  for (const v1::SpeculationOutcome::Source& source : told.sources()) {
    drafted += source.draft_tokens();
    rows += source.draft_rows();
    const bool self = source.drafter() == v1::SpeculationOutcome::DRAFTER_SELF;
    EXPECT_EQ(source.draft_rows() > 0, self);
    EXPECT_EQ(source.weights(), self ? v1::WEIGHT_FORMAT_INT8 : v1::WEIGHT_FORMAT_UNSPECIFIED);
  }
  EXPECT_EQ(told.draft_rows(), rows);
  EXPECT_EQ(server.Metric("skim_verify_rows_total"), drafted);
  EXPECT_EQ(server.Metric("skim_draft_rows_total"), rows);

  // In the smallest format nothing of the model is cheaper.
  request.set_weights(v1::WEIGHT_FORMAT_INT8);
  const Outcome low = server.Generate(request);
  EXPECT_EQ(low.only().text, plain.only().text);
  for (const v1::SpeculationOutcome::Source& source : low.only().final.speculation().sources()) {
    EXPECT_EQ(source.drafter(), v1::SpeculationOutcome::DRAFTER_LOOKUP);
  }
}

TEST(ServedSpeculation, AutoChoosesFromWhatIsServed) {
  TestServerOptions options;
  options.limits.drafters = {DrafterKind::kSelf};
  options.limits.max_draft_tokens = 3;
  v1::GenerateRequest request = Ask();
  request.mutable_speculation()->mutable_auto_();
  {
    TestServer server(options);
    const Outcome outcome = server.Generate(request);
    for (const auto& source : outcome.only().final.speculation().sources()) {
      EXPECT_EQ(source.drafter(), v1::SpeculationOutcome::DRAFTER_SELF);
    }
    EXPECT_LE(outcome.only().final.speculation().draft_tokens_at_size(), 3);
  }
  options.limits.drafters = {};
  TestServer server(options);
  const grpc::Status status = server.Generate(request).status;
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(ViolatedField(status), "speculation.auto");
}

TestServerOptions WithAnswerStore() {
  TestServerOptions options;
  options.scheduler.answer_store_bytes = options.limits.answer_store_bytes = 1 << 20;
  return options;
}

TEST(ServedSpeculation, EarlierAnswersOfTheSameTenantGuessLaterOnes) {
  TestServer server(WithAnswerStore());
  v1::GenerateRequest request = Ask();
  const Outcome plain = server.Generate(request);
  request.set_tenant("ann");
  request.mutable_speculation()->mutable_lookup()->set_shared_store(true);
  const auto drafted_from_store = [](const Outcome& outcome) {
    EXPECT_TRUE(outcome.status.ok()) << outcome.status.error_message();
    uint32_t drafted = 0;
    for (const auto& source : outcome.only().final.speculation().sources()) {
      if (source.drafter() != v1::SpeculationOutcome::DRAFTER_STORE) continue;
      EXPECT_EQ(source.weights(), v1::WEIGHT_FORMAT_UNSPECIFIED);
      drafted += source.draft_tokens();
    }
    return drafted;
  };
  EXPECT_EQ(drafted_from_store(server.Generate(request)), 0u);
  server.ExpectIdle();
  EXPECT_EQ(server.Metric("skim_answer_store_hits_total"), 0);
  EXPECT_EQ(server.Metric("skim_answer_store_bytes"), AnswerStore::kSlabBytes);
  EXPECT_EQ(server.Metric("skim_answer_store_owners"), 1);

  // How it goes on behind its first end token the text does not tell, but the earlier answer does.
  v1::GenerateRequest later = request;
  later.set_tenant("bob");
  EXPECT_EQ(drafted_from_store(server.Generate(later)), 0u);
  later.set_tenant("ann");
  later.set_cache_salt("salt");
  EXPECT_EQ(drafted_from_store(server.Generate(later)), 0u);
  later.clear_cache_salt();
  const Outcome told = server.Generate(later);
  EXPECT_EQ(told.only().text, plain.only().text);
  const uint32_t drafted = drafted_from_store(told);
  EXPECT_GT(drafted, 0u);
  server.ExpectIdle();
  EXPECT_EQ(server.Metric("skim_draft_tokens_total", {{"drafter", "store"}}), drafted);
  EXPECT_GT(server.Metric("skim_answer_store_hits_total"), 0);
  EXPECT_GT(server.Metric("skim_answer_store_lookups_total"),
            server.Metric("skim_answer_store_hits_total"));
  EXPECT_EQ(server.Metric("skim_answer_store_owners"), 3);

  grpc::ClientContext context;
  v1::GetModelResponse model;
  ASSERT_TRUE(server.stub().GetModel(&context, {}, &model).ok());
  EXPECT_EQ(model.answer_store_bytes(), 1u << 20);
}

TEST(ServedSpeculation, AnAnswerCutByAStopStringIsStoredToo) {
  TestServer server(WithAnswerStore());
  v1::GenerateRequest request = Ask("0123456789abcdef", 40);
  request.mutable_speculation()->mutable_lookup()->set_shared_store(true);
  request.mutable_sampling()->add_stop("9a");
  EXPECT_EQ(server.Generate(request).only().final.stop_string(), "9a");
  server.ExpectIdle();
  EXPECT_EQ(server.Metric("skim_answer_store_owners"), 1);
}

TEST(ServedSpeculation, StopStringsAndChoicesAreThoseOfPlainDecoding) {
  TestServer server;
  v1::GenerateRequest request = Ask();
  request.mutable_sampling()->set_n(3);
  request.mutable_sampling()->add_stop("23456");
  const Outcome plain = server.Generate(request);
  request.mutable_speculation()->mutable_lookup()->set_min_ngram(1);
  request.mutable_speculation()->set_max_draft_tokens(8);
  const Outcome outcome = server.Generate(request);
  ASSERT_TRUE(outcome.status.ok());
  for (uint32_t i = 0; i < 3; ++i) {
    EXPECT_EQ(outcome.choices.at(i).text, plain.choices.at(i).text);
    EXPECT_EQ(outcome.choices.at(i).final.stop_string(), "23456");
    EXPECT_EQ(outcome.choices.at(i).final.usage().generated_tokens(),
              plain.choices.at(i).final.usage().generated_tokens());
  }
}

TEST(ServedSpeculation, SaysSoWhereNothingWasDrafted) {
  TestServer server;
  v1::GenerateRequest request = Ask("abcdefghijklmnop", 1);
  request.mutable_speculation()->mutable_lookup();
  const Outcome outcome = server.Generate(request);
  ASSERT_TRUE(outcome.only().final.has_speculation());
  EXPECT_THAT(outcome.only().final.speculation().sources(), IsEmpty());
  EXPECT_EQ(outcome.only().final.speculation().tokens_per_round(), 0);
}

TEST(ServedSpeculation, RefusalsNameTheField) {
  TestServer server;
  using Damage = void (*)(v1::Speculation*);
  const std::pair<const char*, Damage> cases[] = {
      {"speculation.max_draft_tokens",
       [](auto* s) {
         s->mutable_lookup();
         s->set_max_draft_tokens(0);
       }},
      {"speculation.max_draft_tokens",
       [](auto* s) {
         s->mutable_lookup();
         s->set_max_draft_tokens(9);
       }},
      {"speculation.stop_confidence",
       [](auto* s) {
         s->mutable_lookup();
         s->set_stop_confidence(0.5f);
       }},
      {"speculation.stop_confidence",
       [](auto* s) {
         s->mutable_self();
         s->set_stop_confidence(NAN);
       }},
      {"speculation.lookup.min_ngram", [](auto* s) { s->mutable_lookup()->set_min_ngram(0); }},
      {"speculation.lookup.min_ngram", [](auto* s) { s->mutable_lookup()->set_min_ngram(5); }},
      {"speculation.lookup.max_ngram", [](auto* s) { s->mutable_lookup()->set_max_ngram(9); }},
      {"speculation.lookup.max_ngram", [](auto* s) { s->mutable_lookup()->set_max_ngram(0); }},
      {"speculation.lookup.shared_store",
       [](auto* s) { s->mutable_lookup()->set_shared_store(true); }},
      {"speculation.lookup.shared_store",
       [](auto* s) {
         s->mutable_lookup()->set_shared_store(true);
         s->mutable_lookup()->set_max_ngram(1);
       }},
      {"speculation.auto.shared_store",
       [](auto* s) { s->mutable_auto_()->set_shared_store(true); }},
      {"speculation.self.exit_layer", [](auto* s) { s->mutable_self()->set_exit_layer(0); }},
      {"speculation.self.exit_layer", [](auto* s) { s->mutable_self()->set_exit_layer(3); }},
      {"speculation.self.weights",
       [](auto* s) { s->mutable_self()->set_weights(v1::WEIGHT_FORMAT_FP8); }},
      {"speculation.self.weights",
       [](auto* s) { s->mutable_self()->set_weights(static_cast<v1::WeightFormat>(77)); }},
      {"speculation.self.skipped_layers",
       [](auto* s) { s->mutable_self()->add_skipped_layers(2); }},
      {"speculation.self.skipped_layers",
       [](auto* s) {
         s->mutable_self()->set_exit_layer(1);
         s->mutable_self()->add_skipped_layers(0);
       }},
      {"speculation.self.skipped_layers",
       [](auto* s) {
         for (int i = 0; i < 100000; ++i) s->mutable_self()->add_skipped_layers(1);
       }},
      {"speculation.self", [](auto* s) { s->mutable_self()->set_weights(v1::WEIGHT_FORMAT_BF16); }},
      {"speculation.head", [](auto* s) { s->mutable_head(); }},
      {"speculation.draft_model", [](auto* s) { s->mutable_draft_model(); }},
  };
  for (const auto& [field, damage] : cases) {
    v1::GenerateRequest request = Ask();
    damage(request.mutable_speculation());
    const Outcome outcome = server.Generate(request);
    EXPECT_FALSE(outcome.status.ok()) << field;
    EXPECT_EQ(ViolatedField(outcome.status), field) << outcome.status.error_message();
  }
}

TEST(ServedSpeculation, APrunedPromptIsDraftedUpToItsFirstCutAndOnlyWhereNothingIsRevived) {
  TestServerOptions options;
  options.prunes = true;
  options.limits.min_lazy_tokens = 50;
  TestServer server(options);
  v1::GenerateRequest request = Ask(std::string(60, 'x') + "abcdefgh", 30);
  v1::PrefillPolicy::Lazy* lazy = request.mutable_prefill()->mutable_lazy();
  lazy->set_profile("fast");
  request.mutable_speculation()->mutable_lookup();
  EXPECT_THAT(server.Generate(request).status.error_message(), HasSubstr("static"));
  lazy->set_decode_mode(v1::PrefillPolicy::DECODE_MODE_STATIC);
  const Outcome outcome = server.Generate(request);
  ASSERT_TRUE(outcome.status.ok()) << outcome.status.error_message();
  EXPECT_EQ(outcome.only().final.prefill().mode(), v1::PrefillOutcome::MODE_LAZY);
  EXPECT_GT(outcome.only().final.speculation().sources_size(), 0);

  // No layers above the cut can draft, so text alone does.
  request.mutable_speculation()->mutable_auto_();
  const Outcome automatic = server.Generate(request);
  EXPECT_EQ(automatic.only().text, outcome.only().text);
  EXPECT_EQ(automatic.only().final.speculation().draft_rows(), 0u);

  request.mutable_speculation()->mutable_self()->set_exit_layer(2);
  EXPECT_EQ(ViolatedField(server.Generate(request).status), "speculation.self.exit_layer");
  request.mutable_speculation()->mutable_self()->set_exit_layer(1);
  EXPECT_EQ(server.Generate(request).only().text, outcome.only().text);
}

TEST(ServedSpeculation, OnlyWhatIsConfiguredIsServed) {
  TestServerOptions options;
  options.limits.drafters = {DrafterKind::kLookup};
  options.limits.max_draft_tokens = 2;
  TestServer server(options);
  v1::GenerateRequest request = Ask();
  request.mutable_speculation()->mutable_self();
  const grpc::Status status = server.Generate(request).status;
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(ViolatedField(status), "speculation.self");
  request.mutable_speculation()->mutable_lookup();
  EXPECT_EQ(server.Generate(request).only().final.speculation().draft_tokens_at_size(), 2);

  grpc::ClientContext context;
  v1::GetModelResponse model;
  ASSERT_TRUE(server.stub().GetModel(&context, {}, &model).ok());
  EXPECT_THAT(model.drafters(), ElementsAre("lookup", "auto"));
  EXPECT_EQ(model.max_draft_tokens(), 2u);
}

}  // namespace
}  // namespace skim
