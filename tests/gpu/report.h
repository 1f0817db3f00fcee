// What the GPU check says: JSON, one object per line. A simulated device has no times: what would
// be measured there is null, and the line says that it was emulated.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "kernels/ops.h"

namespace skim {

using Json = nlohmann::ordered_json;

class Report {
 public:
  Report(std::string device, bool emulated) : device_(std::move(device)), emulated_(emulated) {}

  bool emulated() const { return emulated_; }

  // How long `work` takes that only enqueues: the median of several times, each long enough for a
  // clock, behind one that warms up. `wait` is what waits for it. Nothing on a simulated device,
  // where it runs once.
  std::optional<double> Seconds(const std::function<void()>& work,
                                const std::function<absl::Status()>& wait);

  // `value` in `unit`, null if there is none.
  void Measured(const std::string& name, std::optional<double> value, const std::string& unit,
                Json params);
  void Checked(const std::string& name, bool passed, Json params);

  // Whether everything that was checked has passed, and every wait.
  bool passed() const { return passed_; }
  void Fail(const std::string& name, const absl::Status& status);

 private:
  void Print(Json line, Json params) const;

  const std::string device_;
  const bool emulated_;
  bool passed_ = true;
};

}  // namespace skim
