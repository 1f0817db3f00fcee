#include "scheduler/serving_loop.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <functional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "scheduler/intake.h"
#include "scheduler/scheduler.h"
#include "scheduler/waker.h"

namespace skim {

class ServingLoop::Impl {
 public:
  Impl(const SchedulerConfig& config, StepExecutor* executor, const Clock* clock,
       ServingObserver* observer, PrefixListener* prefixes)
      : config_(config),
        geometry_(executor->kv_geometry()),
        executor_(executor),
        clock_(clock),
        observer_(observer),
        prefixes_(prefixes),
        intake_(config.max_waiting, config.max_waiting_tokens),
        scheduler_(config, geometry_, &intake_, observer),
        thread_([this] { Run(); }) {}

  ~Impl() {
    intake_.Refuse(absl::UnavailableError("the server is stopping"));
    stopping_.store(true, std::memory_order_release);
    waker_->Wake();
    thread_.join();
  }

  absl::StatusOr<std::shared_ptr<TokenChannel>> Submit(Request request,
                                                       std::function<void()> on_ready) {
    if (absl::Status status = Check(request); !status.ok()) return status;
    auto channel = std::make_shared<TokenChannel>(config_.channel_tokens, std::move(on_ready),
                                                  [waker = waker_] { waker->Wake(); });
    absl::Status status = intake_.Submit({std::move(request), channel, clock_->Now()});
    if (!status.ok()) return status;
    waker_->Wake();
    return channel;
  }

  void Drain() { intake_.Refuse(absl::UnavailableError("the server is draining")); }
  int64_t in_flight() const { return intake_.in_flight(); }
  bool healthy() const { return healthy_.load(std::memory_order_acquire); }

 private:
  // What could never run is refused here, not in the queue.
  absl::Status Check(const Request& request) const {
    const auto prompt = static_cast<int64_t>(request.prompt.size());
    if (prompt == 0) return absl::InvalidArgumentError("prompt: has no tokens");
    if (request.sampling.max_tokens < 1) {
      return absl::InvalidArgumentError("max_tokens: must be at least 1");
    }
    if (prompt + 1 > config_.max_context) {
      return absl::OutOfRangeError(absl::StrCat("prompt: ", prompt, " tokens and one to generate ",
                                                "exceed the context of ", config_.max_context));
    }
    SKIM_RETURN_IF_ERROR(CheckPrefill(request));
    SKIM_RETURN_IF_ERROR(CheckSpeculation(request));
    const int64_t blocks = (prompt + geometry_.page_tokens - 1) / geometry_.page_tokens;
    const int64_t hidden = request.prefill.lazy() ? prompt / geometry_.hidden_rows_per_page + 1 : 0;
    if (blocks * geometry_.PagesPerBlock() + hidden > geometry_.total_pages) {
      return absl::OutOfRangeError(
          absl::StrCat("prompt: ", prompt, " tokens can never fit the KV cache"));
    }
    return absl::OkStatus();
  }

  absl::Status CheckPrefill(const Request& request) const {
    const PrefillPolicy& prefill = request.prefill;
    if (!prefill.lazy()) return absl::OkStatus();
    const auto invalid = [](const char* what) {
      return absl::InvalidArgumentError(absl::StrCat("prefill.lazy", what));
    };
    if (geometry_.hidden_rows_per_page == 0)
      return invalid(": the model's hidden rows fit no page");
    if (prefill.keep.size() != geometry_.boundaries.size()) {
      return invalid(".keep_ratio: needs one for each boundary of the model");
    }
    float before = 1;
    int64_t cuts = 0;
    bool unpredicted = false;
    for (size_t b = 0; b < prefill.keep.size(); ++b) {
      const float keep = prefill.keep[b];
      if (!(keep > 0 && keep <= before))
        return invalid(".keep_ratio: must be in (0, 1] and not rise");
      if (keep == before) continue;
      before = keep;
      ++cuts;
      unpredicted |= std::ranges::count(geometry_.phantom_cuts, geometry_.boundaries[b]) == 0;
      const bool scouted = !geometry_.scouts.empty() && geometry_.scouts[b].any();
      if (unpredicted && (scouted || SeesPhantoms(prefill.decode))) {
        return invalid(scouted ? ".keep_ratio: scouts need predicted keys and values of all cuts"
                               : ".decode_mode: nothing predicts keys and values above a cut");
      }
    }
    if (prefill.rules.window < 1 || prefill.rules.window > config_.max_rows_per_step / 2) {
      return invalid(".score_window: must be at least 1 and at most half a step's rows");
    }
    if (prefill.revival_budget < 0 || prefill.revival_budget * cuts > config_.max_revival_rows) {
      return invalid(".revival_budget: is more than a step reserves rows for");
    }
    if (prefill.look_back < 0 || prefill.look_back * cuts > config_.max_revival_rows ||
        (prefill.look_back > 0 && prefill.decode != DecodeMode::kLate)) {
      return invalid(".look_back: is more than a step reserves rows for, or not late");
    }
    if (request.sampling.prompt_logprobs) {
      return absl::InvalidArgumentError("output.prompt_logprobs: a pruned prompt has none");
    }
    return absl::OkStatus();
  }

  absl::Status CheckSpeculation(const Request& request) const {
    const SpeculationPolicy& speculation = request.speculation;
    if (!speculation.on()) return absl::OkStatus();
    const auto invalid = [](const char* what) {
      return absl::InvalidArgumentError(absl::StrCat("speculation", what));
    };
    if (speculation.max_drafts < 1 || speculation.max_drafts > kMaxDrafts) {
      return invalid(".max_draft_tokens: is out of range");
    }
    if (speculation.min_ngram < 1 || speculation.min_ngram > speculation.max_ngram ||
        speculation.max_ngram > kMaxNgram) {
      return invalid(".lookup: n-grams are out of range");
    }
    if (speculation.shared_store && config_.answer_store_bytes < AnswerStore::kSlabBytes) {
      return invalid(".shared_store: no answers are stored here");
    }
    const PrefillPolicy& prefill = request.prefill;
    int32_t last_exit = geometry_.layers;
    for (size_t b = 0; b < prefill.keep.size() && last_exit == geometry_.layers; ++b) {
      if (prefill.keep[b] < 1) last_exit = geometry_.boundaries[b];
    }
    if (last_exit < geometry_.layers && Revives(prefill.decode)) {
      return invalid(
          ": each token of a pruned prompt's decoding may revive others, unless static or phantom");
    }
    if (speculation.drafter == DrafterKind::kAuto && !speculation.draft_formats.empty() &&
        last_exit < geometry_.layers) {
      return invalid(".auto: no draft runs above the first layer at which the prompt is cut");
    }
    if (speculation.drafter == DrafterKind::kSelf &&
        (speculation.exit_layer < 1 || speculation.exit_layer > last_exit)) {
      return invalid(
          ".self.exit_layer: is no layer, or is above the first at which the prompt is cut");
    }
    const std::vector<int16_t>& skipped = speculation.skipped_layers;
    const bool ascend = std::ranges::adjacent_find(skipped, std::greater_equal()) == skipped.end();
    if (!skipped.empty() &&
        (!ascend || skipped.front() < 0 || skipped.back() >= speculation.exit_layer ||
         std::ssize(skipped) >= speculation.exit_layer)) {
      return invalid(".self.skipped_layers: are no layers below the exit, or are all of them");
    }
    return absl::OkStatus();
  }

  void Run() {
    executor_->BindThread();
    if (prefixes_ != nullptr) scheduler_.RecordPrefixEvents();
    while (!stopping_.load(std::memory_order_acquire)) {
      const Micros begin = clock_->Now();
      const StepPlan& plan = scheduler_.BeginStep(begin);
      observer_->OnState(scheduler_.State());
      if (plan.empty()) {
        const Micros next = scheduler_.NextDeadline();
        waker_->Wait(next == kNever ? kNever : std::max<Micros>(0, next - clock_->Now()));
        continue;
      }
      StepResult result;
      const absl::Status executed = Execute(plan, &result);
      if (!executed.ok()) Fault();
      const Micros end = clock_->Now();
      const int64_t replays = result.replays;
      scheduler_.Commit(executed, std::move(result), end);
      StepStats stats = scheduler_.stats();
      stats.duration = end - begin;
      stats.replays = replays;
      observer_->OnStep(stats);
      observer_->OnState(scheduler_.State());
      TellPrefixes();
    }
    scheduler_.EndAll(absl::UnavailableError("the server has stopped"), clock_->Now());
  }

  void TellPrefixes() {
    if (prefixes_ == nullptr) return;
    const std::vector<PrefixEvent> events = scheduler_.TakePrefixEvents();
    if (!events.empty()) prefixes_->OnPrefixChange(events);
  }

  // An exception (say, no memory) leaves the device in as unknown a state as a fault does.
  absl::Status Execute(const StepPlan& plan, StepResult* result) {
    try {
      return executor_->Execute(plan, result);
    } catch (const std::exception& e) {
      return absl::InternalError(e.what());
    } catch (...) {
      return absl::InternalError("unknown exception");
    }
  }

  void Fault() {
    healthy_.store(false, std::memory_order_release);
    intake_.Refuse(absl::UnavailableError("the device has failed"));
  }

  const SchedulerConfig config_;
  const KvGeometry geometry_;
  StepExecutor* const executor_;
  const Clock* const clock_;
  ServingObserver* const observer_;
  PrefixListener* const prefixes_;
  // Shared with the channels, which may outlive the loop.
  const std::shared_ptr<Waker> waker_ = std::make_shared<Waker>();
  std::atomic<bool> stopping_{false};
  std::atomic<bool> healthy_{true};
  Intake intake_;
  Scheduler scheduler_;
  std::thread thread_;  // last: it uses all of the above
};

ServingLoop::ServingLoop(const SchedulerConfig& config, StepExecutor* executor, const Clock* clock,
                         ServingObserver* observer, PrefixListener* prefixes)
    : impl_(std::make_unique<Impl>(config, executor, clock, observer, prefixes)) {}

ServingLoop::~ServingLoop() = default;

absl::StatusOr<std::shared_ptr<TokenChannel>> ServingLoop::Submit(Request request,
                                                                  std::function<void()> on_ready) {
  return impl_->Submit(std::move(request), std::move(on_ready));
}

void ServingLoop::Drain() { impl_->Drain(); }
int64_t ServingLoop::in_flight() const { return impl_->in_flight(); }
bool ServingLoop::healthy() const { return impl_->healthy(); }

}  // namespace skim
