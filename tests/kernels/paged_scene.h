// A pool of K/V pages on any backend, for the op suite. K and V go into pages through
// RopeAndWriteKv and come out through Attention and KeyScores, so no test of the suite knows how a
// page is laid out.
#pragma once

#include <vector>

#include "tests/kernels/kv_scene.h"
#include "tests/kernels/op_scene.h"

namespace skim {

// Shuffled pages full of NaN, and one sequence after another in them.
class PagedScene {
 public:
  PagedScene(OpScene* scene, const KvShape& shape, int pages);

  // Writes the first w.slots slots of every sequence, in slot order, in chunks of `chunk`. Works
  // of one sequence with as many slots share its pages. Once.
  void Write(const std::vector<KvWork>& work, int chunk);
  std::vector<AttentionResult> Attend(const std::vector<KvWork>& work);
  // As RunKeyScores; after Attend of the same work.
  std::vector<std::vector<float>> ScoreKeys(const std::vector<KvWork>& work,
                                            const std::vector<KvScoring>& scorings,
                                            const std::vector<int32_t>& scored_heads);

 private:
  // What both read of a step's rows; `sequences` has to outlive it.
  AttentionRows Rows(const std::vector<KvWork>& work, std::vector<SequenceRows>* sequences);
  // Nothing is rotated: K and V arrive in their slots as they are, being bf16 values.
  void WriteSlots(const KvSequence& sequence, int32_t block_begin, int first, int end);

  OpScene& scene_;
  KvShape shape_;
  KvLayer kv_;
  AttentionArgs attention_;  // of the last Attend
  std::vector<PageId> free_, blocks_;
  std::vector<int32_t> begins_, slot_positions_;
};

inline constexpr KvFormat kAllKvFormats[] = {KvFormat::kBf16, KvFormat::kInt8, KvFormat::kFp8};

std::vector<int32_t> Range(int begin, int end);

}  // namespace skim
