#include "server/generate_call.h"

#include <chrono>
#include <random>
#include <utility>

#include "base/status_macros.h"
#include "server/final_message.h"
#include "server/rpc_status.h"
#include "server/trace_context.h"

namespace skim {
namespace {

uint64_t DrawSeed() {
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

bool Empty(const v1::Delta& delta) {
  return delta.text().empty() && delta.token_ids().empty() && delta.logprobs().empty() &&
         delta.prompt_logprobs().empty();
}

}  // namespace

CallOrigin OriginOf(const grpc::CallbackServerContext& context, Micros now) {
  CallOrigin origin;
  const auto left = context.deadline() - std::chrono::system_clock::now();
  const Micros micros = std::chrono::duration_cast<std::chrono::microseconds>(left).count();
  // No deadline is the end of time, a few centuries away.
  constexpr Micros kYear = Micros{365} * 24 * 3600 * 1'000'000;
  if (micros <= kYear) origin.deadline = now + micros;
  const auto& metadata = context.client_metadata();
  const auto found = metadata.find("traceparent");
  if (found != metadata.end()) {
    origin.trace_id = TraceIdOf({found->second.data(), found->second.size()});
  }
  return origin;
}

GenerateCall::GenerateCall(const v1::GenerateRequest* request, const ServedModel& model,
                           const CallServices& services, CallOrigin origin, GenerateSink* sink)
    : request_(request),
      model_(model),
      services_(services),
      arrival_(services.clock->Now()),
      origin_(std::move(origin)),
      request_id_(IsPrintableName(request->request_id()) ? request->request_id() : ""),
      sink_(sink),
      task_(services.workers) {}

void GenerateCall::Start() {
  services_.calls->Add(this);
  const bool posted =
      services_.workers->TryPostAdmission([self = shared_from_this()] { self->Admit(); });
  if (!posted) {
    Refuse(RetryAfter(absl::ResourceExhaustedError("too many calls wait to be tokenised"),
                      kRetryDelay));
  }
}

void GenerateCall::Admit() {
  // The client may have gone while the call waited for a worker.
  absl::Status status = end_status();
  if (status.ok()) status = Submit();
  if (!status.ok()) {
    Refuse(status);
    return;
  }
  admitted_.store(true);
  Wake();
}

absl::Status GenerateCall::Submit() {
  SKIM_ASSIGN_OR_RETURN(generation_,
                        BuildGeneration(*request_, model_, arrival_, origin_.deadline, DrawSeed()));
  if (services_.log_prompts) {
    services_.log->info("prompt id={} {}", request_id_, request_->ShortDebugString());
  }
  const size_t count = generation_.requests.size();
  const SeqId first_id = services_.next_id->fetch_add(count);
  choices_.reserve(count);
  open_choices_ = static_cast<int>(count);
  for (size_t i = 0; i < count; ++i) {
    Request& request = generation_.requests[i];
    request.id = first_id + i;
    request.group = count > 1 ? first_id : 0;
    auto channel = model_.loop->Submit(request, [weak = weak_from_this()] {
      if (const auto call = weak.lock()) call->Wake();
    });
    if (!channel.ok()) {
      // All choices or none: what was submitted is taken back.
      const absl::Status& status = channel.status();
      for (Choice& choice : choices_) choice.channel->Cancel();
      if (absl::IsResourceExhausted(status)) return RetryAfter(status, kRetryDelay);
      if (absl::IsOutOfRange(status)) return AtField(status, InputField(*request_));
      return status;
    }
    request.prompt = {};  // the loop has its own
    Choice& choice = choices_.emplace_back();
    choice.channel = *std::move(channel);
    choice.output =
        std::make_unique<ChoiceOutput>(&generation_.output, &request.sampling, model_.tokenizer);
    std::lock_guard lock(mutex_);
    cancellable_.push_back(choice.channel);
    if (aborted_ || !end_status_.ok()) choice.channel->Cancel();
  }
  return absl::OkStatus();
}

void GenerateCall::Refuse(const absl::Status& status) {
  services_.metrics->OnRefused(status.code());
  // Not the message: a template's may quote the prompt.
  services_.log->info("request id={} trace={} refused status={} field={}", request_id_,
                      origin_.trace_id, absl::StatusCodeToString(status.code()), FieldOf(status));
  sink_->Finish(status);
}

void GenerateCall::End(const absl::Status& status) {
  {
    std::lock_guard lock(mutex_);
    if (end_status_.ok()) end_status_ = status;
    for (const auto& channel : cancellable_) channel->Cancel();
  }
  Wake();
}

void GenerateCall::Abort(std::string_view request_id) {
  if (!services_.abortable || request_id != request_->request_id()) return;
  std::lock_guard lock(mutex_);
  aborted_ = true;
  for (const auto& channel : cancellable_) channel->Cancel();
}

void GenerateCall::OnClientGone() { End(absl::CancelledError("the client has gone")); }

void GenerateCall::OnSent(bool ok) {
  sending_.store(false);
  if (ok) {
    Wake();
  } else {
    OnClientGone();
  }
}

void GenerateCall::Done() { services_.calls->Remove(this); }

void GenerateCall::Wake() {
  task_.Wake([self = shared_from_this()] { self->Pump(); });
}

absl::Status GenerateCall::end_status() const {
  std::lock_guard lock(mutex_);
  return end_status_;
}

void GenerateCall::Pump() {
  if (!admitted_.load() || finished_ || sending_.load()) return;
  // Before collecting: a channel tells of more only after it was drained, so an ended call
  // that left it full would wait for ever.
  if (!end_status().ok()) outbox_.clear();
  if (outbox_.empty()) Collect();
  const absl::Status status = end_status();
  if (!status.ok()) outbox_.clear();
  if (!outbox_.empty()) {
    SendNext();
  } else if (open_choices_ == 0) {
    finished_ = true;
    LogOutcome(status);
    sink_->Finish(status);
  }
}

void GenerateCall::SendNext() {
  v1::GenerateResponse response = std::move(outbox_.front());
  outbox_.pop_front();
  sending_.store(true);
  finished_ = open_choices_ == 0 && outbox_.empty();
  if (finished_) LogOutcome(absl::OkStatus());
  sink_->Send(std::move(response), finished_);
}

void GenerateCall::Collect() {
  for (uint32_t i = 0; i < choices_.size(); ++i) {
    if (!choices_[i].final.has_value()) CollectChoice(i);
  }
}

void GenerateCall::CollectChoice(uint32_t index) {
  Choice& choice = choices_[index];
  TokenChannel::Drained drained = choice.channel->Drain();
  v1::GenerateResponse response;
  response.set_index(index);
  v1::Delta* delta = response.mutable_delta();
  const int32_t tokens_before = choice.output->generated_tokens();
  choice.output->AddPromptLogprobs(drained.prompt_logprobs, delta);
  for (const SampledToken& token : drained.tokens) choice.output->Add(token, delta);
  if (choice.output->generated_tokens() > tokens_before) {
    choice.last_token = services_.clock->Now();
  }
  // From the matching token on the sequence is of no use; its pages are free a step later.
  if (choice.output->stop_string_found()) choice.channel->Cancel();
  if (drained.finish.has_value()) choice.output->End(delta);
  if (!Empty(*delta)) outbox_.push_back(std::move(response));
  if (drained.finish.has_value()) FinishChoice(index, *drained.finish);
}

void GenerateCall::FinishChoice(uint32_t index, const skim::Finish& finish) {
  --open_choices_;
  Choice& choice = choices_[index];
  choice.final = BuildFinal(finish, *choice.output, arrival_, choice.last_token, *model_.info);
  choice.final->set_seed(generation_.requests[index].sampling.seed);
  choice.final->set_request_id(request_id_);
  choice.final->set_trace_id(origin_.trace_id);
  services_.metrics->OnOutcome(choice.final->finish_reason());
  services_.tenants->OnFinal(request_->tenant(), choice.final->usage());
  if (choice.final->finish_reason() == v1::FINISH_REASON_UNSPECIFIED) {
    End(finish.status.ok() ? absl::InternalError("the sequence failed") : finish.status);
    return;
  }
  v1::GenerateResponse& response = outbox_.emplace_back();
  response.set_index(index);
  *response.mutable_final() = *choice.final;
}

void GenerateCall::LogOutcome(const absl::Status& status) const {
  uint32_t generated_tokens = 0;
  std::string reasons;
  for (const Choice& choice : choices_) {
    generated_tokens += choice.final->usage().generated_tokens();
    if (!reasons.empty()) reasons += ',';
    reasons += ReasonName(choice.final->finish_reason());
  }
  const v1::Final& first = *choices_.front().final;
  services_.log->info(
      "request id={} trace={} seq={} choices={} weights={} prompt_tokens={} cached_tokens={} "
      "generated_tokens={} "
      "queue_ms={:.1f} ttft_ms={:.1f} total_ms={:.1f} tokens_per_s={:.1f} finish={} status={}",
      request_id_, origin_.trace_id, generation_.requests.front().id, choices_.size(),
      WeightFormatName(generation_.requests.front().weight_format), first.usage().prompt_tokens(),
      first.usage().cached_tokens(), generated_tokens, first.timings().queue_ms(),
      first.timings().time_to_first_token_ms(),
      static_cast<double>(services_.clock->Now() - arrival_) / 1e3, first.timings().tokens_per_s(),
      reasons, absl::StatusCodeToString(status.code()));
}

}  // namespace skim
