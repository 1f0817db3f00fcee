// An engine that says the prompt again and then the end token, over and over if that does
// not stop it. So a test chooses the output by its prompt, and a lost, doubled or foreign
// token shows in the text. The pages below are checked by FakeEngine.
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>

#include "engine/step_executor.h"
#include "scheduler/lazy_progress.h"
#include "tests/scheduler/fake_engine.h"

namespace skim {

class EchoEngine final : public StepExecutor {
 public:
  // With `boundary`, a model of two layers whose prompts can be pruned between them.
  explicit EchoEngine(int32_t total_pages, bool boundary = false);

  absl::Status Execute(const StepPlan& plan, StepResult* result) override;
  const KvGeometry& kv_geometry() const override { return fake_.kv_geometry(); }

  // While paused, a step does not return: whatever runs stays in mid-stream.
  void Pause();
  void Resume();
  // The next `steps` steps run, then the engine is paused.
  void PauseAfter(int steps);
  // Sleep in every step, to keep streams alive for as long as a test needs.
  void set_step_delay_us(int delay) { step_delay_us_ = delay; }
  // From now on all pruned requests do. Only while nothing runs.
  void LookBack() {
    fake_.looks = [](SeqId) { return LazyProgress::kLooks; };
  }
  // The next step fails as a broken device would.
  void BreakDevice() { broken_ = true; }

  // Empty unless a page held something else than it should. Only while nothing runs.
  const std::string& complaint() const { return fake_.complaint(); }

  static float Logprob(TokenId token) { return -0.25f * static_cast<float>(token); }

 private:
  FakeEngine fake_;
  std::atomic<int> step_delay_us_{0};
  std::atomic<bool> broken_{false};
  std::mutex mutex_;
  std::condition_variable may_run_;
  int steps_left_ = -1;  // negative: as many as there are
};

}  // namespace skim
