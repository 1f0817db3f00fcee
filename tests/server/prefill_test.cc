// Prompt pruning as a client sees it: what is refused by which field, and what the final
// message and the metrics tell.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "tests/server/test_server.h"

namespace skim {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TestServerOptions Pruning() {
  TestServerOptions options;
  options.prunes = true;
  options.limits.min_lazy_tokens = 100;
  return options;
}

v1::GenerateRequest Ask(int32_t prompt_tokens, const std::string& profile) {
  v1::GenerateRequest request;
  request.set_text(std::string(static_cast<size_t>(prompt_tokens), 'x'));
  request.mutable_sampling()->set_temperature(0);
  request.mutable_sampling()->set_max_tokens(5);
  request.mutable_prefill()->mutable_lazy()->set_profile(profile);
  return request;
}

TEST(Prefill, TheFinalMessageSaysWhatWasSaved) {
  TestServer server(Pruning());
  const Outcome outcome = server.Generate(Ask(200, "fast"));
  ASSERT_TRUE(outcome.status.ok()) << outcome.status.error_message();
  EXPECT_EQ(outcome.only().text, "xxxxx");
  const v1::PrefillOutcome& prefill = outcome.only().final.prefill();
  EXPECT_EQ(prefill.mode(), v1::PrefillOutcome::MODE_LAZY);
  EXPECT_EQ(prefill.decode_mode(), v1::PrefillPolicy::DECODE_MODE_LAZY);
  EXPECT_EQ(prefill.kept_tokens(), 100u);
  EXPECT_EQ(prefill.segment_tokens(0), 200u);
  EXPECT_EQ(prefill.segment_tokens(1), 100u + prefill.revived_tokens());
  EXPECT_GT(prefill.revived_tokens(), 0u);
  EXPECT_EQ(prefill.token_layers_saved(), 100u - prefill.revived_tokens());
  EXPECT_GT(prefill.hidden_bytes(), 0u);
}

TEST(Prefill, WhatIsTooShortRunsExactAndSaysSo) {
  TestServer server(Pruning());
  const Outcome outcome = server.Generate(Ask(99, "fast"));
  ASSERT_TRUE(outcome.status.ok());
  EXPECT_EQ(outcome.only().final.prefill().mode(), v1::PrefillOutcome::MODE_EXACT_TOO_SHORT);
  EXPECT_EQ(outcome.only().final.prefill().kept_tokens(), 0u);
}

TEST(Prefill, ACachedBeginningThatLeavesLittleIsTaken) {
  TestServer server(Pruning());
  v1::GenerateRequest exact = Ask(200, "fast");
  exact.clear_prefill();
  const Outcome first = server.Generate(exact);
  EXPECT_FALSE(first.only().final.has_prefill());
  const Outcome outcome = server.Generate(Ask(200, "fast"));
  EXPECT_EQ(outcome.only().final.prefill().mode(), v1::PrefillOutcome::MODE_EXACT_TOO_SHORT);
  EXPECT_EQ(outcome.only().final.usage().cached_tokens(), 192u);
}

TEST(Prefill, WhatTheCacheSavesIsNotCalledPruned) {
  TestServer server(Pruning());
  const v1::PrefillOutcome before = server.Generate(Ask(200, "fast")).only().final.prefill();
  const Outcome outcome = server.Generate(Ask(200, "fast"));
  const v1::Final& final = outcome.only().final;
  EXPECT_EQ(final.usage().cached_tokens(), 192u);
  EXPECT_EQ(final.prefill().mode(), v1::PrefillOutcome::MODE_LAZY);
  EXPECT_EQ(final.prefill().segment_tokens(0), 8u);
  EXPECT_EQ(final.prefill().segment_tokens(1), before.segment_tokens(1));
  EXPECT_EQ(final.prefill().kept_tokens(), before.kept_tokens());
  EXPECT_EQ(final.prefill().token_layers_saved(), before.token_layers_saved());
  EXPECT_EQ(final.prefill().hidden_bytes(), before.hidden_bytes());
}

TEST(Prefill, KeepingAllIsExact) {
  TestServer server(Pruning());
  v1::GenerateRequest request = Ask(200, "");
  request.mutable_prefill()->mutable_lazy()->add_keep_ratio(1);
  const Outcome outcome = server.Generate(request);
  ASSERT_TRUE(outcome.status.ok());
  EXPECT_EQ(outcome.only().final.prefill().mode(), v1::PrefillOutcome::MODE_EXACT);
}

TEST(Prefill, ChoicesOfOneCallArePrunedEachAndShareWhatIsBelowTheCut) {
  TestServer server(Pruning());
  v1::GenerateRequest request = Ask(200, "fast");
  request.mutable_sampling()->set_n(3);
  const Outcome outcome = server.Generate(request);
  ASSERT_TRUE(outcome.status.ok());
  ASSERT_EQ(outcome.choices.size(), 3u);
  for (const auto& [index, choice] : outcome.choices) {
    EXPECT_EQ(choice.final.prefill().mode(), v1::PrefillOutcome::MODE_LAZY);
    EXPECT_EQ(choice.final.usage().cached_tokens(), index == 0 ? 0u : 192u);
  }
}

TEST(Prefill, PhantomsAreCountedAndNobodyIsRevived) {
  TestServerOptions options = Pruning();
  options.predicts = true;
  TestServer server(options);
  const Outcome outcome = server.Generate(Ask(200, "phantom"));
  ASSERT_TRUE(outcome.status.ok()) << outcome.status.error_message();
  const v1::PrefillOutcome& prefill = outcome.only().final.prefill();
  EXPECT_EQ(prefill.mode(), v1::PrefillOutcome::MODE_LAZY);
  EXPECT_EQ(prefill.decode_mode(), v1::PrefillPolicy::DECODE_MODE_PHANTOM);
  EXPECT_EQ(prefill.kept_tokens(), 100u);
  EXPECT_EQ(prefill.predicted_tokens(), 100u);
  EXPECT_EQ(prefill.token_layers_saved(), 100u);
  EXPECT_EQ(prefill.revived_tokens(), 0u);
  grpc::ClientContext context;
  v1::GetModelResponse model;
  ASSERT_TRUE(server.stub().GetModel(&context, {}, &model).ok());
  EXPECT_THAT(model.prefill_profiles(), ElementsAre("fast", "phantom"));
  EXPECT_THAT(model.prefill_predicted_boundaries(), ElementsAre(1u));
}

TEST(Prefill, PhantomsThatReplyTokensLookForAreRevivedLate) {
  TestServerOptions options = Pruning();
  options.predicts = true;
  TestServer server(options);
  v1::GenerateRequest request = Ask(200, "phantom");
  v1::PrefillPolicy::Lazy& lazy = *request.mutable_prefill()->mutable_lazy();
  lazy.set_decode_mode(v1::PrefillPolicy::DECODE_MODE_LATE);
  lazy.set_revival_budget(2);
  const Outcome outcome = server.Generate(request);
  ASSERT_TRUE(outcome.status.ok()) << outcome.status.error_message();
  const v1::PrefillOutcome& prefill = outcome.only().final.prefill();
  EXPECT_EQ(prefill.decode_mode(), v1::PrefillPolicy::DECODE_MODE_LATE);
  EXPECT_EQ(prefill.predicted_tokens(), 100u);
  EXPECT_GT(prefill.revived_tokens(), 0u);
  EXPECT_EQ(prefill.segment_tokens(1), 100u + prefill.revived_tokens());

  // One token needs no decoding; looking back finds whom it misses before it is drawn.
  server.engine().LookBack();
  lazy.set_look_back(3);
  request.mutable_sampling()->set_max_tokens(1);
  const Outcome looked = server.Generate(request);
  ASSERT_TRUE(looked.status.ok()) << looked.status.error_message();
  EXPECT_GT(looked.only().final.prefill().revived_tokens(), 0u);
  EXPECT_LE(looked.only().final.prefill().revived_tokens(), 3u);

  request.mutable_speculation()->mutable_lookup();
  const Outcome drafted = server.Generate(request);
  EXPECT_EQ(drafted.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(drafted.status.error_message(), HasSubstr("speculation"));
}

TEST(Prefill, PhantomsWithoutPredictorsAreRefused) {
  TestServer server(Pruning());
  const Outcome by_profile = server.Generate(Ask(200, "phantom"));
  EXPECT_EQ(by_profile.status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(by_profile.status.error_message(), HasSubstr("prefill.lazy.profile"));
  EXPECT_THAT(by_profile.status.error_message(), HasSubstr("no predictors above layer 1"));
  v1::GenerateRequest request = Ask(200, "fast");
  request.mutable_prefill()->mutable_lazy()->set_decode_mode(
      v1::PrefillPolicy::DECODE_MODE_PHANTOM);
  const Outcome by_mode = server.Generate(request);
  EXPECT_EQ(by_mode.status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(by_mode.status.error_message(), HasSubstr("prefill.lazy.decode_mode"));
  // Where nothing is cut nothing is predicted.
  request.mutable_prefill()->mutable_lazy()->add_keep_ratio(1);
  EXPECT_TRUE(server.Generate(request).status.ok());
}

TEST(Prefill, ProfilesWithScoutsAreRefusedWithWhatToRunWhereThereAreNone) {
  TestServer server(Pruning());
  for (const char* profile : kScoutProfiles) {
    const Outcome outcome = server.Generate(Ask(200, profile));
    EXPECT_EQ(outcome.status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
    EXPECT_THAT(outcome.status.error_message(), HasSubstr("prefill.lazy.profile"));
    EXPECT_THAT(outcome.status.error_message(), HasSubstr("./run calibrate --scouts"));
  }
}

TEST(Prefill, ScoutsNeedPredictorsWhateverTheDecoding) {
  TestServerOptions options = Pruning();
  options.scouts = true;
  TestServer without(options);
  const Outcome refused = without.Generate(Ask(200, "fast"));
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(refused.status.error_message(), HasSubstr("scouts need predicted"));
  options.predicts = true;
  TestServer server(options);
  EXPECT_TRUE(server.Generate(Ask(200, "fast")).status.ok());
  grpc::ClientContext context;
  v1::GetModelResponse model;
  ASSERT_TRUE(server.stub().GetModel(&context, {}, &model).ok());
  EXPECT_THAT(model.prefill_scouted_boundaries(), ElementsAre(1u));
  EXPECT_THAT(model.prefill_scout_layers(), ElementsAre(2u));
}

TEST(Prefill, RefusalsNameTheField) {
  TestServer server(Pruning());
  using Lazy = v1::PrefillPolicy::Lazy;
  using Damage = void (*)(Lazy*);
  const std::pair<const char*, Damage> cases[] = {
      {"prefill.lazy.profile", [](Lazy* l) { l->set_profile("paper"); }},
      {"prefill.lazy.profile", [](Lazy* l) { l->clear_profile(); }},
      {"prefill.lazy.keep_ratio", [](Lazy* l) { l->add_keep_ratio(0); }},
      {"prefill.lazy.keep_ratio", [](Lazy* l) { l->add_keep_ratio(1.01f); }},
      {"prefill.lazy.keep_ratio", [](Lazy* l) { l->add_keep_ratio(NAN); }},
      {"prefill.lazy.keep_ratio",
       [](Lazy* l) {
         l->add_keep_ratio(0.5f);
         l->add_keep_ratio(0.5f);
       }},
      {"prefill.lazy.score_window", [](Lazy* l) { l->set_score_window(0); }},
      {"prefill.lazy.score_window", [](Lazy* l) { l->set_score_window(65); }},
      {"prefill.lazy.revival_budget", [](Lazy* l) { l->set_revival_budget(100000); }},
      {"prefill.lazy.revival_budget",
       [](Lazy* l) {
         l->set_decode_mode(v1::PrefillPolicy::DECODE_MODE_STATIC);
         l->set_revival_budget(1);
       }},
      {"prefill.lazy.look_back", [](Lazy* l) { l->set_look_back(1); }},
      {"prefill.lazy.look_back",
       [](Lazy* l) {
         l->set_decode_mode(v1::PrefillPolicy::DECODE_MODE_LATE);
         l->set_look_back(100000);
       }},
      {"prefill.lazy.decode_mode",
       [](Lazy* l) { l->set_decode_mode(static_cast<v1::PrefillPolicy::DecodeMode>(9)); }},
      {"prefill.lazy.pinned[0]",
       [](Lazy* l) {
         l->add_pinned()->set_begin(5);
         l->mutable_pinned(0)->set_end(5);
       }},
      {"prefill.lazy.pinned[1]",
       [](Lazy* l) {
         l->add_pinned()->set_end(5);
         l->add_pinned()->set_end(201);
       }},
  };
  for (const auto& [field, damage] : cases) {
    v1::GenerateRequest request = Ask(200, "fast");
    damage(request.mutable_prefill()->mutable_lazy());
    const Outcome outcome = server.Generate(request);
    EXPECT_EQ(outcome.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << field;
    EXPECT_THAT(outcome.status.error_message(), HasSubstr(field));
  }
  v1::GenerateRequest scores = Ask(200, "fast");
  scores.mutable_output()->set_logprobs(1);
  scores.mutable_output()->set_prompt_logprobs(true);
  EXPECT_THAT(server.Generate(scores).status.error_message(), HasSubstr("output.prompt_logprobs"));
}

TEST(Prefill, ModelTellsBoundariesAndProfiles) {
  TestServer server(Pruning());
  grpc::ClientContext context;
  v1::GetModelResponse model;
  ASSERT_TRUE(server.stub().GetModel(&context, {}, &model).ok());
  EXPECT_THAT(model.prefill_boundaries(), ElementsAre(1u));
  EXPECT_THAT(model.prefill_profiles(), ElementsAre("fast"));
  ASSERT_EQ(model.prefill_profile_settings_size(), 1);
  const v1::PrefillProfile& fast = model.prefill_profile_settings(0);
  EXPECT_EQ(fast.name(), "fast");
  EXPECT_THAT(fast.keep_ratio(), ElementsAre(0.5f));
  EXPECT_EQ(fast.decode_mode(), v1::PrefillPolicy::DECODE_MODE_LAZY);
  EXPECT_EQ(fast.revival_budget(), 4u);
  EXPECT_EQ(fast.score_window(), 1u);
  EXPECT_EQ(fast.look_back(), 0u);
  EXPECT_EQ(model.prefill_min_prompt_tokens(), 100u);
  EXPECT_EQ(model.prefill_min_kept_tokens(), 64u);
}

}  // namespace
}  // namespace skim
