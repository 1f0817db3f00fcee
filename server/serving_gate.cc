#include "server/serving_gate.h"

namespace skim {

void ServingGate::Open(const ServedModel& model) {
  std::lock_guard lock(mutex_);
  phase_ = Phase::kServing;
  model_ = model;
}

void ServingGate::Close() {
  std::lock_guard lock(mutex_);
  phase_ = Phase::kDraining;
}

absl::StatusOr<ServedModel> ServingGate::Enter() const {
  std::lock_guard lock(mutex_);
  switch (phase_) {
    case Phase::kServing:
      return *model_;
    case Phase::kLoading:
      return absl::UnavailableError("the model is being loaded");
    case Phase::kDraining:
      break;
  }
  return absl::UnavailableError("the server is shutting down");
}

}  // namespace skim
