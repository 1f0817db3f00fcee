// The layer stack cut into segments. All rows of a sequence share one token set inside a
// segment, so KV page tables are kept per segment; rows may enter and leave at its borders.
// One segment is an unpruned model.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace skim {

struct Segment {
  int32_t first_layer = 0;
  int32_t layers = 0;
};

class LayerSegments {
 public:
  // `boundaries` ascend strictly inside (0, layers).
  LayerSegments(int32_t layers, std::span<const int32_t> boundaries);
  // One segment, in pages of at most `page_layers` (> 0) layers: as few as suffice, the last
  // perhaps not full.
  static LayerSegments Paged(int32_t layers, int32_t page_layers);

  int32_t layers() const { return layers_; }
  const std::vector<Segment>& segments() const { return segments_; }
  // Layers that share a KV page: the largest number that divides every segment, so that
  // one page size serves all of them. (Paged: as said there.)
  int32_t unit_layers() const { return unit_layers_; }
  const std::vector<int32_t>& units() const { return units_; }  // layer units per segment
  int32_t SegmentOf(int32_t layer) const;
  // Whether `layer` begins a segment other than the first.
  bool IsBoundary(int32_t layer) const;

 private:
  LayerSegments(int32_t layers, int32_t unit_layers, int32_t units)
      : layers_(layers), unit_layers_(unit_layers), segments_{{0, layers}}, units_{units} {}

  int32_t layers_;
  int32_t unit_layers_;
  std::vector<Segment> segments_;
  std::vector<int32_t> units_;
};

}  // namespace skim
