#include "loadtest/malformed.h"

#include <iterator>
#include <limits>

namespace skim {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Model {
  uint32_t vocabulary;
  uint32_t max_context;
};

using Breaker = void (*)(const Model&, v1::GenerateRequest*);

constexpr Breaker kBreakers[] = {
    [](const Model&, v1::GenerateRequest* r) { r->clear_input(); },
    [](const Model&, v1::GenerateRequest* r) { r->mutable_token_ids()->clear_ids(); },
    [](const Model&, v1::GenerateRequest* r) { r->set_text(""); },
    [](const Model& m, v1::GenerateRequest* r) { r->mutable_token_ids()->add_ids(m.vocabulary); },
    [](const Model&, v1::GenerateRequest* r) { r->mutable_token_ids()->add_ids(0xffffffffu); },
    [](const Model& m, v1::GenerateRequest* r) {
      for (uint32_t i = 0; i <= m.max_context; ++i) r->mutable_token_ids()->add_ids(0);
    },
    [](const Model&, v1::GenerateRequest* r) { r->mutable_chat(); },
    [](const Model&, v1::GenerateRequest* r) { r->set_model("no such model"); },
    [](const Model&, v1::GenerateRequest* r) { r->mutable_sampling()->set_temperature(kNan); },
    [](const Model&, v1::GenerateRequest* r) { r->mutable_sampling()->set_temperature(-1); },
    [](const Model&, v1::GenerateRequest* r) { r->mutable_sampling()->set_top_p(0); },
    [](const Model&, v1::GenerateRequest* r) { r->mutable_sampling()->set_top_p(kNan); },
    [](const Model&, v1::GenerateRequest* r) { r->mutable_sampling()->set_min_p(1.5); },
    [](const Model&, v1::GenerateRequest* r) { r->mutable_sampling()->set_repetition_penalty(0); },
    [](const Model&, v1::GenerateRequest* r) {
      r->mutable_sampling()->set_frequency_penalty(kInfinity);
    },
    [](const Model&, v1::GenerateRequest* r) { r->mutable_sampling()->set_presence_penalty(-3); },
    [](const Model& m, v1::GenerateRequest* r) {
      (*r->mutable_sampling()->mutable_logit_bias())[m.vocabulary] = 1;
    },
    [](const Model&, v1::GenerateRequest* r) {
      (*r->mutable_sampling()->mutable_logit_bias())[0] = kNan;
    },
    [](const Model&, v1::GenerateRequest* r) { r->mutable_sampling()->set_max_tokens(0); },
    [](const Model&, v1::GenerateRequest* r) {
      r->mutable_sampling()->set_min_tokens(r->sampling().max_tokens() + 1);
    },
    [](const Model&, v1::GenerateRequest* r) { r->mutable_sampling()->set_n(10'000); },
    [](const Model&, v1::GenerateRequest* r) {
      for (int i = 0; i < 10'000; ++i) r->mutable_sampling()->add_stop("stop");
    },
    [](const Model&, v1::GenerateRequest* r) { r->mutable_sampling()->add_stop(""); },
    [](const Model& m, v1::GenerateRequest* r) {
      r->mutable_sampling()->add_stop_token_ids(m.vocabulary);
    },
    [](const Model&, v1::GenerateRequest* r) { r->mutable_output()->set_logprobs(100'000); },
    [](const Model&, v1::GenerateRequest* r) { r->set_weights(static_cast<v1::WeightFormat>(77)); },
};

}  // namespace

size_t MalformedKinds() { return std::size(kBreakers); }

void BreakRequest(size_t kind, uint32_t vocabulary, uint32_t max_context,
                  v1::GenerateRequest* request) {
  kBreakers[kind]({vocabulary, max_context}, request);
}

}  // namespace skim
