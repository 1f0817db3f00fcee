#include "tests/gpu/report.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <vector>

namespace skim {
namespace {

constexpr int kTimes = 5;
constexpr double kLeastSeconds = 0.05;

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

std::optional<double> Report::Seconds(const std::function<void()>& work,
                                      const std::function<absl::Status()>& wait) {
  absl::Status status;
  const auto run = [&](int count) {
    const double begin = Now();
    for (int i = 0; i < count; ++i) work();
    status.Update(wait());
    return Now() - begin;
  };
  run(1);
  if (status.ok() && !emulated_) {
    int count = 1;
    while (status.ok() && run(count) < kLeastSeconds) count *= 2;
    std::vector<double> seconds;
    for (int i = 0; i < kTimes && status.ok(); ++i) seconds.push_back(run(count) / count);
    if (status.ok()) {
      std::ranges::sort(seconds);
      return seconds[kTimes / 2];
    }
  }
  if (!status.ok()) Fail("work", status);
  return std::nullopt;
}

void Report::Print(Json line, Json params) const {
  line["device"] = device_;
  line["emulated"] = emulated_;
  line["params"] = std::move(params);
  std::printf("%s\n", line.dump().c_str());
  std::fflush(stdout);
}

void Report::Measured(const std::string& name, std::optional<double> value, const std::string& unit,
                      Json params) {
  Json line = {{"suite", "gpu"}, {"name", name}, {"value", nullptr}, {"unit", unit}};
  if (value) line["value"] = *value;
  Print(std::move(line), std::move(params));
}

void Report::Checked(const std::string& name, bool passed, Json params) {
  passed_ &= passed;
  Print({{"suite", "gpu"}, {"name", name}, {"passed", passed}}, std::move(params));
}

void Report::Fail(const std::string& name, const absl::Status& status) {
  Checked(name, false, {{"status", status.ToString()}});
}

}  // namespace skim
