// What requests that opted in were answered, for drafts: answers of the same owner often say the
// same again. Owners never see each other's. Bounded: answers lie in slabs of one size, as many as
// the memory allows; who needs one more gets that which the owner who was idle longest filled
// first. Adding costs a constant per token, looking up a constant. The same calls give the same
// answers. Loop thread only.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/types.h"

namespace skim {

// Whose answers: those of one tenant under one cache salt.
struct AnswerOwner {
  std::string tenant;
  std::string salt;
  auto operator<=>(const AnswerOwner&) const = default;
};

// Some answers of one owner and an index of their n-grams: buckets of positions, in which a full
// one forgets its oldest. What is found is compared, so the index may forget but not err.
class AnswerSlab {
 public:
  static constexpr int32_t kMinNgram = 2, kMaxNgram = 4;

  AnswerSlab() { Clear(); }
  void Clear();
  // That one more answer may have.
  int32_t room() const { return kTokens - used_ - 1; }
  // At most room() tokens.
  void Add(std::span<const TokenId> answer);
  // What followed the latest occurrence of `ngram` (of kMinNgram to kMaxNgram tokens), to the end
  // of its answer; empty if there is none. Until the next Add.
  std::span<const TokenId> After(std::span<const TokenId> ngram) const;

 private:
  static constexpr int kPositionBits = 14;
  static constexpr int32_t kTokens = 1 << kPositionBits;
  static constexpr int32_t kWays = 8, kBuckets = 1 << 13;

  // Where what follows an n-gram begins, and above those bits how long it is; 0: nothing.
  using Entry = uint16_t;
  using Bucket = std::array<Entry, kWays>;
  static constexpr int32_t PositionOf(Entry entry) { return entry % kTokens; }

  static size_t BucketOf(std::span<const TokenId> ngram);
  bool Is(Entry entry, std::span<const TokenId> ngram) const;
  void Enter(int32_t begin, int32_t position);

  int32_t used_ = 0;
  std::array<TokenId, kTokens> tokens_;  // kNoToken before and behind each answer
  std::array<Bucket, kBuckets> index_;
};

class AnswerStore {
 public:
  // So many of all slabs one owner may have.
  static constexpr size_t kOwnerSlabs = 8;
  static constexpr int64_t kSlabBytes = sizeof(AnswerSlab);

  // Keeps nothing if `bytes` are fewer than those of a slab.
  explicit AnswerStore(int64_t bytes);

  bool keeps() const { return most_slabs_ > 0; }
  void Add(const AnswerOwner& owner, std::span<const TokenId> answer);
  // At most `most` tokens that followed the end of `text` in an answer: the latest occurrence of
  // the longest n-gram of [min_ngram, max_ngram] tokens that is found.
  std::vector<TokenId> Continue(const AnswerOwner& owner, std::span<const TokenId> text,
                                int32_t min_ngram, int32_t max_ngram, int32_t most);

  int64_t bytes() const { return static_cast<int64_t>(slabs_) * kSlabBytes; }
  int32_t owners() const { return static_cast<int32_t>(answers_.size()); }
  // Calls of Continue so far, and those that found something.
  int64_t lookups() const { return lookups_; }
  int64_t hits() const { return hits_; }

 private:
  struct Answers {
    std::deque<std::unique_ptr<AnswerSlab>> slabs;  // the oldest first
    uint64_t last_use = 0;
  };

  AnswerSlab& NextSlab(Answers* answers);
  // `asking` is not idle, but may be the only one.
  std::unique_ptr<AnswerSlab> TakeFromIdlest(const Answers* asking);

  const size_t most_slabs_;
  size_t slabs_ = 0;
  uint64_t uses_ = 0;
  int64_t lookups_ = 0, hits_ = 0;
  std::map<AnswerOwner, Answers> answers_;
};

}  // namespace skim
