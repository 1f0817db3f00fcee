#include "server/kserve_output.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "server/vllm_output.h"

namespace skim {
namespace {

using nlohmann::json;

// The rank among the best, from 1; null if it is none of them.
json Entry(const v1::TokenLogprobs& token, uint32_t id, float logprob, const std::string& text) {
  json rank;
  for (int i = 0; i < token.top_size(); ++i) {
    if (token.top(i).token_id() == id) rank = i + 1;
  }
  return {{"logprob", logprob}, {"rank", rank}, {"decoded_token", text}};
}

// A list with an object for each token: id -> entry, of the token and of the best.
std::string LogprobsJson(const std::vector<v1::TokenLogprobs>& tokens) {
  json list = json::array();
  for (const v1::TokenLogprobs& token : tokens) {
    json entries = json::object();
    entries[std::to_string(token.token_id())] =
        Entry(token, token.token_id(), token.logprob(), token.text());
    for (const v1::TopToken& top : token.top()) {
      entries[std::to_string(top.token_id())] =
          Entry(token, top.token_id(), top.logprob(), top.text());
    }
    list.push_back(std::move(entries));
  }
  return list.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace

KserveOutput::KserveOutput(KserveCall call) : call_(std::move(call)) {}

bool KserveOutput::Translate(v1::GenerateResponse response, kserve::ModelInferResponse* out) {
  if (choices_.empty()) {
    // By now the number of choices has been checked.
    choices_.resize(call_.request.sampling().has_n() ? call_.request.sampling().n() : 1);
    for (Choice& choice : choices_) choice.text = call_.prepended;
  }
  Take(response);
  if (!call_.stream && ended_ < choices_.size()) return false;
  Fill(out);
  return true;
}

void KserveOutput::Take(const v1::GenerateResponse& response) {
  Choice& choice = choices_[response.index()];
  if (response.has_final()) {
    choice.finish_reason = VllmFinishReason(response.final().finish_reason());
    prompt_tokens_ = response.final().usage().prompt_tokens();
    ++ended_;
    return;
  }
  const v1::Delta& delta = response.delta();
  choice.text += delta.text();
  choice.tokens += static_cast<uint32_t>(delta.token_ids_size());
  for (const v1::TokenLogprobs& token : delta.logprobs()) {
    choice.cumulative_logprob += token.logprob();
    if (call_.logprobs_wanted) choice.logprobs.push_back(token);
  }
}

void KserveOutput::Fill(kserve::ModelInferResponse* out) {
  out->Clear();
  out->set_model_name(call_.request.model());
  out->set_model_version(kKserveVersion);
  out->set_id(call_.request.request_id());
  std::vector<std::string> texts, reasons, logprobs;
  std::vector<float> sums;
  std::vector<uint32_t> tokens;
  for (Choice& choice : choices_) {
    texts.push_back(std::exchange(choice.text, ""));
    reasons.push_back(choice.finish_reason);
    sums.push_back(choice.cumulative_logprob);
    logprobs.push_back(call_.logprobs_wanted ? LogprobsJson(std::exchange(choice.logprobs, {}))
                                             : "null");
    tokens.push_back(std::exchange(choice.tokens, 0));
  }
  if (Wants(KserveTensor::kText)) AddBytesTensor(KserveTensor::kText, texts, out);
  if (Wants(KserveTensor::kFinishReason)) {
    AddBytesTensor(KserveTensor::kFinishReason, reasons, out);
  }
  if (Wants(KserveTensor::kCumulativeLogprob)) {
    AddFloatTensor(KserveTensor::kCumulativeLogprob, sums, out);
  }
  if (Wants(KserveTensor::kLogprobs)) AddBytesTensor(KserveTensor::kLogprobs, logprobs, out);
  if (Wants(KserveTensor::kInput)) {
    AddUintTensor(KserveTensor::kInput, std::span(&prompt_tokens_, 1), out);
  }
  if (Wants(KserveTensor::kOutput)) AddUintTensor(KserveTensor::kOutput, tokens, out);
}

}  // namespace skim
