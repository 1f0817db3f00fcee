#pragma once

#include "scheduler/observer.h"

namespace skim {

class NullObserver : public ServingObserver {
 public:
  void OnStep(const StepStats&) override {}
  void OnState(const LoopState&) override {}
  void OnFirstToken(Micros, PrefillMode) override {}
  void OnTokens(int32_t, Micros) override {}
  void OnFinish(const Finish&) override {}
};

}  // namespace skim
