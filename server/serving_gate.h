// Whether calls are let in, and the model they are served with; one for all services.
// Thread-safe.
#pragma once

#include <mutex>
#include <optional>

#include "absl/status/statusor.h"
#include "server/served_model.h"

namespace skim {

class ServingGate {
 public:
  // Until then, and after Close(), every call gets UNAVAILABLE.
  void Open(const ServedModel& model);
  void Close();

  // The model to serve a call with, or why not.
  absl::StatusOr<ServedModel> Enter() const;

 private:
  enum class Phase { kLoading, kServing, kDraining };

  mutable std::mutex mutex_;
  Phase phase_ = Phase::kLoading;
  std::optional<ServedModel> model_;
};

}  // namespace skim
