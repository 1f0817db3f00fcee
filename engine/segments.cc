#include "engine/segments.h"

#include <numeric>

#include "base/check.h"

namespace skim {

LayerSegments::LayerSegments(int32_t layers, std::span<const int32_t> boundaries)
    : layers_(layers), unit_layers_(0) {
  int32_t first = 0;
  auto close = [&](int32_t end) {
    SKIM_CHECK(first < end && end <= layers);
    segments_.push_back({first, end - first});
    unit_layers_ = std::gcd(unit_layers_, end - first);
    first = end;
  };
  for (int32_t boundary : boundaries) close(boundary);
  close(layers);
  for (const Segment& segment : segments_) units_.push_back(segment.layers / unit_layers_);
}

LayerSegments LayerSegments::Paged(int32_t layers, int32_t page_layers) {
  SKIM_CHECK(layers > 0 && page_layers > 0);
  const int32_t units = (layers + page_layers - 1) / page_layers;
  return {layers, (layers + units - 1) / units, units};
}

int32_t LayerSegments::SegmentOf(int32_t layer) const {
  int32_t s = 0;
  while (layer >= segments_[s].first_layer + segments_[s].layers) ++s;
  return s;
}

bool LayerSegments::IsBoundary(int32_t layer) const {
  return layer > 0 && layer < layers_ && segments_[SegmentOf(layer)].first_layer == layer;
}

}  // namespace skim
