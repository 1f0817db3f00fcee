// The names under which dashboards, autoscalers and gateways of other servers look for the same
// numbers: vllm:num_requests_waiting and the like, beside our own.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "prometheus/collectable.h"
#include "prometheus/registry.h"

namespace skim {

class MetricAliases final : public prometheus::Collectable {
 public:
  // Every sample gets the labels model_name and engine="0".
  MetricAliases(std::shared_ptr<prometheus::Registry> own, std::string model_name)
      : own_(std::move(own)), model_name_(std::move(model_name)) {}

  // Copies of our own families as they are now.
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  const std::shared_ptr<prometheus::Registry> own_;
  const std::string model_name_;
};

}  // namespace skim
