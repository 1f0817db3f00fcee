#include "server/generate_reactor.h"

#include <chrono>
#include <random>
#include <utility>

#include "base/status_macros.h"
#include "server/final_message.h"
#include "server/rpc_status.h"

namespace skim {
namespace {

// gRPC's deadline is wall time; the loop's clock is monotonic.
Micros LoopDeadline(const grpc::CallbackServerContext& context, Micros now) {
  const auto left = context.deadline() - std::chrono::system_clock::now();
  const Micros micros = std::chrono::duration_cast<std::chrono::microseconds>(left).count();
  // No deadline is the end of time, a few centuries away.
  constexpr Micros kYear = Micros{365} * 24 * 3600 * 1'000'000;
  return micros > kYear ? kNever : now + micros;
}

uint64_t DrawSeed() {
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

bool Empty(const v1::Delta& delta) {
  return delta.text().empty() && delta.token_ids().empty() && delta.logprobs().empty() &&
         delta.prompt_logprobs().empty();
}

}  // namespace

GenerateReactor* GenerateReactor::Start(const grpc::CallbackServerContext& context,
                                        const v1::GenerateRequest* request,
                                        const ServedModel& model, const CallServices& services) {
  std::shared_ptr<GenerateReactor> reactor(new GenerateReactor(context, request, model, services));
  reactor->self_ = reactor;
  services.calls->Add(reactor.get());
  const bool posted = services.workers->TryPostAdmission([reactor] { reactor->Admit(); });
  if (!posted) {
    reactor->Refuse(RetryAfter(absl::ResourceExhaustedError("too many calls wait to be tokenised"),
                               kRetryDelay));
  }
  return reactor.get();
}

GenerateReactor::GenerateReactor(const grpc::CallbackServerContext& context,
                                 const v1::GenerateRequest* request, const ServedModel& model,
                                 const CallServices& services)
    : request_(request),
      model_(model),
      services_(services),
      arrival_(services.clock->Now()),
      deadline_(LoopDeadline(context, arrival_)),
      request_id_(IsPrintableName(request->request_id()) ? request->request_id() : ""),
      task_(services.workers) {}

void GenerateReactor::Admit() {
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

absl::Status GenerateReactor::Submit() {
  SKIM_ASSIGN_OR_RETURN(generation_,
                        BuildGeneration(*request_, model_, arrival_, deadline_, DrawSeed()));
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
      if (const auto reactor = weak.lock()) reactor->Wake();
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
    if (!end_status_.ok()) choice.channel->Cancel();
  }
  return absl::OkStatus();
}

void GenerateReactor::Refuse(const absl::Status& status) {
  services_.metrics->OnRefused(status.code());
  // Not the message: a template's may quote the prompt.
  services_.log->info("request id={} refused status={} field={}", request_id_,
                      absl::StatusCodeToString(status.code()), FieldOf(status));
  Finish(ToGrpcStatus(status));
}

void GenerateReactor::End(const absl::Status& status) {
  {
    std::lock_guard lock(mutex_);
    if (end_status_.ok()) end_status_ = status;
    for (const auto& channel : cancellable_) channel->Cancel();
  }
  Wake();
}

void GenerateReactor::OnCancel() { End(absl::CancelledError("the client has gone")); }

void GenerateReactor::OnWriteDone(bool ok) {
  writing_.store(false);
  if (ok) {
    Wake();
  } else {
    End(absl::CancelledError("the client has gone"));
  }
}

void GenerateReactor::OnDone() {
  services_.calls->Remove(this);
  const auto last = std::move(self_);
}

void GenerateReactor::Wake() {
  task_.Wake([self = shared_from_this()] { self->Pump(); });
}

absl::Status GenerateReactor::end_status() const {
  std::lock_guard lock(mutex_);
  return end_status_;
}

void GenerateReactor::Pump() {
  if (!admitted_.load() || finished_ || writing_.load()) return;
  // Before collecting: a channel tells of more only after it was drained, so an ended call
  // that left it full would wait for ever.
  if (!end_status().ok()) outbox_.clear();
  if (outbox_.empty()) Collect();
  const absl::Status status = end_status();
  if (!status.ok()) outbox_.clear();
  if (!outbox_.empty()) {
    Write();
  } else if (open_choices_ == 0) {
    finished_ = true;
    LogOutcome(status);
    Finish(ToGrpcStatus(status));
  }
}

void GenerateReactor::Write() {
  writing_message_ = std::move(outbox_.front());
  outbox_.pop_front();
  writing_.store(true);
  if (open_choices_ == 0 && outbox_.empty()) {
    finished_ = true;
    LogOutcome(absl::OkStatus());
    StartWriteAndFinish(&writing_message_, grpc::WriteOptions(), grpc::Status::OK);
  } else {
    StartWrite(&writing_message_);
  }
}

void GenerateReactor::Collect() {
  for (uint32_t i = 0; i < choices_.size(); ++i) {
    if (!choices_[i].final.has_value()) CollectChoice(i);
  }
}

void GenerateReactor::CollectChoice(uint32_t index) {
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

void GenerateReactor::FinishChoice(uint32_t index, const skim::Finish& finish) {
  --open_choices_;
  Choice& choice = choices_[index];
  choice.final = BuildFinal(finish, *choice.output, arrival_, choice.last_token);
  choice.final->set_seed(generation_.requests[index].sampling.seed);
  choice.final->set_request_id(request_id_);
  services_.metrics->OnOutcome(choice.final->finish_reason());
  if (choice.final->finish_reason() == v1::FINISH_REASON_UNSPECIFIED) {
    End(finish.status.ok() ? absl::InternalError("the sequence failed") : finish.status);
    return;
  }
  v1::GenerateResponse& response = outbox_.emplace_back();
  response.set_index(index);
  *response.mutable_final() = *choice.final;
}

void GenerateReactor::LogOutcome(const absl::Status& status) const {
  uint32_t generated_tokens = 0;
  std::string reasons;
  for (const Choice& choice : choices_) {
    generated_tokens += choice.final->usage().generated_tokens();
    if (!reasons.empty()) reasons += ',';
    reasons += ReasonName(choice.final->finish_reason());
  }
  const v1::Final& first = *choices_.front().final;
  services_.log->info(
      "request id={} seq={} choices={} weights={} prompt_tokens={} cached_tokens={} "
      "generated_tokens={} "
      "queue_ms={:.1f} ttft_ms={:.1f} total_ms={:.1f} tokens_per_s={:.1f} finish={} status={}",
      request_id_, generation_.requests.front().id, choices_.size(),
      WeightFormatName(generation_.requests.front().weight_format), first.usage().prompt_tokens(),
      first.usage().cached_tokens(), generated_tokens, first.timings().queue_ms(),
      first.timings().time_to_first_token_ms(),
      static_cast<double>(services_.clock->Now() - arrival_) / 1e3, first.timings().tokens_per_s(),
      reasons, absl::StatusCodeToString(status.code()));
}

}  // namespace skim
