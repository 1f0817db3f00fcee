#include "tests/scheduler/trace.h"

#include <map>
#include <memory>
#include <optional>
#include <sstream>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "scheduler/scheduler.h"
#include "tests/scheduler/fake_engine.h"
#include "tests/scheduler/null_observer.h"

namespace skim {
namespace {

const char* Name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStopToken:
      return "stop token";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kTimeLimit:
      return "time limit";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kError:
      return "error";
  }
  return "?";
}

// The words of one command; `key=value` and bare words alike.
class Words {
 public:
  explicit Words(const std::string& line) {
    std::istringstream in(line);
    for (std::string word; in >> word;) words_.push_back(word);
  }

  const std::string& operator[](size_t i) const { return words_.at(i); }
  size_t size() const { return words_.size(); }
  bool Has(const std::string& word) const { return Find(word) || Text(word).has_value(); }

  std::optional<std::string> Text(const std::string& key) const {
    for (const std::string& word : words_) {
      const size_t equals = word.find('=');
      if (equals == key.size() && word.starts_with(key)) return word.substr(equals + 1);
    }
    return std::nullopt;
  }
  int64_t Number(const std::string& key, int64_t otherwise) const {
    const auto text = Text(key);
    return text ? std::stoll(*text) : otherwise;
  }
  // "1..4,9" is 1 2 3 4 9.
  std::vector<int32_t> List(const std::string& key) const {
    std::vector<int32_t> out;
    std::istringstream in(Text(key).value_or(""));
    for (std::string item; std::getline(in, item, ',');) {
      const size_t dots = item.find("..");
      const int32_t first = std::stoi(item);
      const int32_t last = dots == std::string::npos ? first : std::stoi(item.substr(dots + 2));
      for (int32_t value = first; value <= last; ++value) out.push_back(value);
    }
    return out;
  }

 private:
  bool Find(const std::string& word) const {
    for (const std::string& other : words_) {
      if (other == word) return true;
    }
    return false;
  }

  std::vector<std::string> words_;
};

class Runner {
 public:
  void Command(const std::string& line) {
    const Words words(line);
    if (words[0] == "config") return Configure(words);
    if (scheduler_ == nullptr) Configure(Words("config"));
    if (words[0] == "submit") {
      Submit(words);
    } else if (words[0] == "step") {
      const int times = words.size() > 1 ? std::stoi(words[1]) : 1;
      for (int i = 0; i < times; ++i) Step();
    } else if (words[0] == "at") {
      now_ = std::stoll(words[1]);
    } else if (words[0] == "cancel") {
      clients_.at(std::stoull(words[1])).channel->Cancel();
    } else if (words[0] == "drain") {
      Drain(std::stoull(words[1]));
    } else if (words[0] == "state") {
      State();
    } else if (words[0] == "next") {
      const Micros next = scheduler_->NextDeadline();
      Print(next == kNever ? "never" : std::to_string(next));
    } else if (words[0] == "break") {
      engine_->broken.insert(std::stoull(words[1]));
    } else if (words[0] == "mend") {
      engine_->broken.erase(std::stoull(words[1]));
    } else if (words[0] == "fault") {
      engine_->fault = absl::InternalError("out of order");
    } else if (words[0] == "wrong") {  // so many of the next drafts
      wrong_drafts_ = std::stoi(words[1]);
    } else if (words[0] == "stop") {
      scheduler_->EndAll(absl::UnavailableError("stopping"), now_);
      for (const auto& [id, client] : clients_) Drain(id);
    } else {
      Print("unknown command");
    }
  }

  std::string TakeOutput() { return std::exchange(output_, ""); }

 private:
  struct Client {
    std::shared_ptr<TokenChannel> channel;
    bool slow = false;
  };

  template <typename... Parts>
  void Print(const Parts&... parts) {
    absl::StrAppend(&output_, "  ", parts..., "\n");
  }

  void Configure(const Words& words) {
    KvGeometry geometry;
    geometry.page_tokens = static_cast<int32_t>(words.Number("page_tokens", 4));
    geometry.total_pages = static_cast<int32_t>(words.Number("pages", 16));
    geometry.layers = static_cast<int16_t>(words.Number("layers", 2));
    geometry.hidden_rows_per_page = static_cast<int32_t>(words.Number("hidden", 0));
    if (words.Has("units")) {
      geometry.segment_units = words.List("units");
      geometry.layers = static_cast<int16_t>(geometry.segment_units.size());
      for (int16_t layer = 1; layer < geometry.layers; ++layer) geometry.boundaries.push_back(layer);
    }
    SchedulerConfig config;
    config.max_rows_per_step = static_cast<int32_t>(words.Number("rows", 8));
    config.max_running = static_cast<int32_t>(words.Number("running", 4));
    config.max_waiting = static_cast<int32_t>(words.Number("waiting", 256));
    config.max_context = static_cast<int32_t>(words.Number("context", 64));
    channel_tokens_ = static_cast<size_t>(words.Number("channel", 8));
    config.channel_tokens = channel_tokens_;
    config.slow_reader_limit = words.Number("slow_limit", 100);
    config.prefix_cache = words.Text("cache") != "off";
    intake_ = std::make_unique<Intake>(config.max_waiting, config.max_waiting_tokens);
    scheduler_ = std::make_unique<Scheduler>(config, geometry, intake_.get(), &observer_);
    engine_ = std::make_unique<FakeEngine>(
        geometry, [](const PlanSequence& sequence, std::span<const TokenId> prefix,
                     std::span<const TokenId>) {
          const auto generated = static_cast<TokenId>(prefix.size()) - sequence.prompt_tokens;
          return static_cast<TokenId>(sequence.id) * 100 + generated + 1;
        });
    engine_->draft = [this](SeqId, TokenId right) {
      return wrong_drafts_ > 0 ? --wrong_drafts_, right + 50 : right;
    };
  }

  void Submit(const Words& words) {
    Request request;
    request.id = std::stoull(words[1]);
    request.prompt = words.List("prompt");
    request.sampling.max_tokens = static_cast<int32_t>(words.Number("max", 4));
    request.sampling.stop_tokens = words.List("stop");
    request.sampling.prompt_logprobs = words.Has("scores");
    request.priority = static_cast<int32_t>(words.Number("priority", 0));
    request.weight_format = WeightFormatOfName(words.Text("weights").value_or("bf16")).value();
    request.tenant = words.Text("tenant").value_or("");
    request.cache_salt = words.Text("salt").value_or("");
    request.deadline = words.Number("deadline", kNever);
    SpeculationPolicy& speculation = request.speculation;
    if (words.Has("lookup")) speculation.drafter = DrafterKind::kLookup;
    if (words.Has("auto")) speculation.drafter = DrafterKind::kAuto;
    if (words.Has("auto") && words.Has("draft_weights")) {
      speculation.draft_formats = {WeightFormatOfName(*words.Text("draft_weights")).value()};
    }
    if (words.Has("exit")) speculation.drafter = DrafterKind::kSelf;
    speculation.exit_layer = static_cast<int32_t>(words.Number("exit", 0));
    speculation.max_drafts = static_cast<int32_t>(words.Number("drafts", 4));
    speculation.draft_format =
        WeightFormatOfName(words.Text("draft_weights").value_or("bf16")).value();
    request.group = static_cast<uint64_t>(words.Number("group", 0));
    Client& client = clients_[request.id];
    client.slow = words.Has("slow");
    client.channel = std::make_shared<TokenChannel>(channel_tokens_, std::function<void()>());
    const absl::Status status = intake_->Submit({std::move(request), client.channel, now_});
    if (!status.ok()) Print(status.ToString());
  }

  void Step() {
    const StepPlan& plan = scheduler_->BeginStep(now_);
    Print(plan.empty() ? "idle" : ToString(plan));
    if (scheduler_->stats().preempted > 0) {
      Print(scheduler_->stats().preempted, " preempted");
    }
    if (!plan.empty()) {
      StepResult result;
      const absl::Status executed = engine_->Execute(plan, &result);
      if (!engine_->complaint().empty()) Print(engine_->complaint());
      scheduler_->Commit(executed, std::move(result), now_);
    }
    for (const auto& [id, client] : clients_) {
      if (!client.slow) Drain(id);
    }
  }

  void Drain(SeqId id) {
    const TokenChannel::Drained got = clients_.at(id).channel->Drain();
    if (!got.prompt_logprobs.empty()) {
      Print(id, " has ", got.prompt_logprobs.size(), " prompt scores");
    }
    if (!got.tokens.empty()) {
      std::string tokens;
      for (const SampledToken& token : got.tokens) absl::StrAppend(&tokens, " ", token.token);
      Print(id, " ->", tokens);
    }
    if (!got.finish.has_value()) return;
    const Finish& finish = *got.finish;
    std::string details;
    if (finish.cached_tokens > 0) absl::StrAppend(&details, ", cached ", finish.cached_tokens);
    if (finish.preemptions > 0) absl::StrAppend(&details, ", preemptions ", finish.preemptions);
    const DraftCounts speculation = finish.speculation.total();
    if (finish.speculation.drafter != DrafterKind::kNone) {
      absl::StrAppend(&details, ", drafted ", speculation.drafted, " in ", speculation.rounds,
                      " rounds, accepted ", speculation.accepted);
    }
    if (!finish.status.ok()) absl::StrAppend(&details, ", ", finish.status.ToString());
    Print(id, " ends: ", Name(finish.reason), ", generated ", finish.generated_tokens, details);
  }

  void State() {
    const LoopState state = scheduler_->State();
    const int32_t free = state.kv_pages_total - state.kv_pages_owned - state.kv_pages_cached;
    Print("running ", state.running, " waiting ", state.waiting, "; pages free ", free, " cached ",
          state.kv_pages_cached, " owned ", state.kv_pages_owned);
  }

  NullObserver observer_;
  std::unique_ptr<Intake> intake_;
  std::unique_ptr<Scheduler> scheduler_;
  std::unique_ptr<FakeEngine> engine_;
  std::map<SeqId, Client> clients_;
  size_t channel_tokens_ = 0;
  int wrong_drafts_ = 0;
  Micros now_ = 0;
  std::string output_;
};

}  // namespace

std::string RunTrace(const std::string& text) {
  Runner runner;
  std::string out;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("  ")) continue;  // an output, given again below
    out.append(line).append("\n");
    if (line.empty() || line.starts_with("#")) continue;
    runner.Command(line);
    out += runner.TakeOutput();
  }
  return out;
}

}  // namespace skim
