#include "scheduler/answer_store.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "scheduler/ngram_hash.h"

namespace skim {
namespace {

// With less room a slab counts as full: an answer is not cut into crumbs.
constexpr int32_t kLeastRoom = 64;

}  // namespace

void AnswerSlab::Clear() {
  tokens_[0] = kNoToken;
  used_ = 1;
  index_.fill({});
}

size_t AnswerSlab::BucketOf(std::span<const TokenId> ngram) {
  return HashOfNgram(ngram) % kBuckets;
}

bool AnswerSlab::Is(Entry entry, std::span<const TokenId> ngram) const {
  const auto n = static_cast<int32_t>(ngram.size());
  if (entry == 0 || kMinNgram + (entry >> kPositionBits) != n) return false;
  return std::ranges::equal(std::span(tokens_).subspan(PositionOf(entry) - n, n), ngram);
}

void AnswerSlab::Enter(int32_t begin, int32_t position) {
  const auto ngram = std::span<const TokenId>(tokens_).subspan(begin, position - begin);
  Bucket& bucket = index_[BucketOf(ngram)];
  auto slot = std::ranges::find_if(bucket, [&](Entry entry) { return Is(entry, ngram); });
  // An empty one is the least of all.
  if (slot == bucket.end()) slot = std::ranges::min_element(bucket, {}, &PositionOf);
  const auto longer = static_cast<int32_t>(ngram.size()) - kMinNgram;
  *slot = static_cast<Entry>(position | longer << kPositionBits);
}

void AnswerSlab::Add(std::span<const TokenId> answer) {
  const auto size = static_cast<int32_t>(answer.size());
  SKIM_CHECK(size <= room());
  const int32_t begin = used_;
  std::ranges::copy(answer, tokens_.begin() + begin);
  used_ += size;
  tokens_[used_++] = kNoToken;
  for (int32_t position = begin + kMinNgram; position < begin + size; ++position) {
    for (int32_t n = kMinNgram; n <= std::min(kMaxNgram, position - begin); ++n) {
      Enter(position - n, position);
    }
  }
}

std::span<const TokenId> AnswerSlab::After(std::span<const TokenId> ngram) const {
  const Bucket& bucket = index_[BucketOf(ngram)];
  const auto found = std::ranges::find_if(bucket, [&](Entry entry) { return Is(entry, ngram); });
  if (found == bucket.end()) return {};
  const int32_t begin = PositionOf(*found);
  const auto rest = std::span<const TokenId>(tokens_).subspan(begin, used_ - begin);
  return rest.first(std::ranges::find(rest, kNoToken) - rest.begin());
}

AnswerStore::AnswerStore(int64_t bytes)
    : most_slabs_(static_cast<size_t>(std::max<int64_t>(0, bytes) / kSlabBytes)) {}

std::unique_ptr<AnswerSlab> AnswerStore::TakeFromIdlest(const Answers* asking) {
  const auto idlest = std::ranges::min_element(
      answers_, {}, [](const auto& entry) { return entry.second.last_use; });
  std::unique_ptr<AnswerSlab> slab = std::move(idlest->second.slabs.front());
  idlest->second.slabs.pop_front();
  if (idlest->second.slabs.empty() && &idlest->second != asking) answers_.erase(idlest);
  return slab;
}

AnswerSlab& AnswerStore::NextSlab(Answers* answers) {
  std::unique_ptr<AnswerSlab> slab;
  if (answers->slabs.size() == kOwnerSlabs) {
    slab = std::move(answers->slabs.front());
    answers->slabs.pop_front();
  } else if (slabs_ == most_slabs_) {
    slab = TakeFromIdlest(answers);
  }
  if (slab != nullptr) {
    slab->Clear();
  } else {
    slab = std::make_unique<AnswerSlab>();
    ++slabs_;
  }
  return *answers->slabs.emplace_back(std::move(slab));
}

void AnswerStore::Add(const AnswerOwner& owner, std::span<const TokenId> answer) {
  if (!keeps() || answer.size() <= AnswerSlab::kMinNgram) return;
  while (true) {
    Answers& answers = answers_[owner];
    answers.last_use = ++uses_;
    const bool full = answers.slabs.empty() || answers.slabs.back()->room() < kLeastRoom;
    AnswerSlab& slab = full ? NextSlab(&answers) : *answers.slabs.back();
    const size_t size = std::min(answer.size(), static_cast<size_t>(slab.room()));
    slab.Add(answer.first(size));
    if (size == answer.size()) return;
    // What follows the last n-grams here is found there.
    answer = answer.subspan(size - AnswerSlab::kMaxNgram);
  }
}

std::vector<TokenId> AnswerStore::Continue(const AnswerOwner& owner, std::span<const TokenId> text,
                                           int32_t min_ngram, int32_t max_ngram, int32_t most) {
  ++lookups_;
  const auto found = answers_.find(owner);
  if (found == answers_.end()) return {};
  found->second.last_use = ++uses_;
  const auto longest = static_cast<int32_t>(std::min<size_t>(
      text.size(), static_cast<size_t>(std::min(max_ngram, AnswerSlab::kMaxNgram))));
  for (int32_t n = longest; n >= std::max(min_ngram, AnswerSlab::kMinNgram); --n) {
    const auto& slabs = found->second.slabs;
    for (auto slab = slabs.rbegin(); slab != slabs.rend(); ++slab) {
      const std::span<const TokenId> after = (*slab)->After(text.last(n));
      if (after.empty()) continue;
      ++hits_;
      const auto tokens = after.first(std::min<size_t>(after.size(), most));
      return {tokens.begin(), tokens.end()};
    }
  }
  return {};
}

}  // namespace skim
