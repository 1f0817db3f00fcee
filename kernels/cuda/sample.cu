// Sampling without sorting the vocabulary: kernels/sampling.h, one block per row.
//
// Probabilities are counted in units of 2^-40 of the likeliest token's weight, as integers: sums
// do not depend on the order in which threads add, so one seed gives one text. A token below
// half a unit is never drawn. Top-k and top-p find their least likely survivor by radix
// selection, 8 bits of the logit at a time.
#include "kernels/cuda/block_reduce.cuh"
#include "kernels/cuda/launch.h"

namespace skim::cuda {
namespace {

using Mass = unsigned long long;

constexpr int kThreads = kSampleThreads;
constexpr float kInfinity = __builtin_inff();
constexpr float kMaxFloat = 3.402823466e+38f;
constexpr float kMassUnit = 1099511627776.0f;  // 2^40
constexpr int kDigitBins = 256;

// Unsigned numbers in the order of the floats; -0 and +0 are one.
__device__ uint32_t OrderOf(float x) {
  const uint32_t bits = __float_as_uint(x + 0.0f);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

// The least likely survivor of top-k and top-p; keeps everything at first.
struct Cutoff {
  uint32_t order = 0;
  TokenId token = INT32_MAX;

  __device__ bool Keeps(float x, TokenId id) const {
    const uint32_t own = OrderOf(x);
    return x != -kInfinity && (own > order || (own == order && id <= token));
  }
};

struct SelectScratch {
  Mass bins[kDigitBins];
  Mass before;  // what lies above the chosen bin
  int digit;
};

// One row of logits while its block works on it.
class RowSampler {
 public:
  __device__ RowSampler(const SampleTask& task, const float* logits, int64_t vocabulary,
                        BlockScratch& block, SelectScratch& select)
      : task_(task),
        logits_(logits),
        vocabulary_(static_cast<TokenId>(vocabulary)),
        block_(block),
        select_(select) {
    const TokenId share = (vocabulary_ + kThreads - 1) / kThreads;
    begin_ = min(static_cast<TokenId>(threadIdx.x) * share, vocabulary_);
    end_ = min(begin_ + share, vocabulary_);
  }

  // The highest logit that comes after `last` in the order of likelihood.
  __device__ Best BestAfter(Best last) {
    Best mine;
    for (TokenId id = threadIdx.x; id < vocabulary_; id += kThreads) {
      const Best candidate = {logits_[id], id};
      if (last.token != kNoToken && !last.Beats(candidate)) continue;
      if (id != last.token && candidate.Beats(mine)) mine = candidate;
    }
    return BlockBest(mine, block_);
  }

  __device__ TokenId Draw(float maximum) {
    maximum_ = maximum;
    // An infinite temperature would make NaN of -inf.
    temperature_ = fminf(task_.temperature, kMaxFloat);
    if (task_.top_k > 0 && task_.top_k < vocabulary_) {
      Limit(false, static_cast<Mass>(task_.top_k));
    }
    Mass total;
    if (task_.top_p < 1) {
      BlockPrefix(ShareOf(true), block_, &total);
      const double target =
          fmax(static_cast<double>(task_.top_p), 0.0) * static_cast<double>(total);
      const Mass mass = static_cast<Mass>(ceil(target));
      Limit(true, mass > 0 ? min(mass, total) : 1);
    }
    minimum_ = fminf(task_.min_p, 1.0f);
    const Mass mine = ShareOf(true);
    const Mass before = BlockPrefix(mine, block_, &total);
    const Mass target = min(static_cast<Mass>(task_.draw * static_cast<double>(total)), total - 1);
    if (before <= target && target < before + mine) {
      Mass sum = before;
      TokenId id = begin_;
      for (; id < end_; ++id) {
        sum += ValueOf(id, true);
        if (sum > target) break;
      }
      select_.digit = id;
    }
    __syncthreads();
    return select_.digit;
  }

  // log(sum(exp(logits))).
  __device__ float LogSumExp(float maximum) {
    maximum_ = maximum;
    temperature_ = 1;
    Mass total;
    BlockPrefix(ShareOf(true), block_, &total);
    return maximum + logf(static_cast<float>(total) / kMassUnit);
  }

 private:
  // 1 for a survivor, or its mass.
  __device__ Mass ValueOf(TokenId id, bool mass) const {
    const float x = logits_[id];
    if (!cutoff_.Keeps(x, id)) return 0;
    if (!mass) return 1;
    const float weight = expf((x - maximum_) / temperature_);
    return weight < minimum_ ? 0 : __float2ull_rn(weight * kMassUnit);
  }

  // Of the tokens that are this thread's in id order.
  __device__ Mass ShareOf(bool mass) const {
    Mass sum = 0;
    for (TokenId id = begin_; id < end_; ++id) sum += ValueOf(id, mass);
    return sum;
  }

  // Keeps the likeliest tokens until their values reach `target` (at least 1, at most all).
  __device__ void Limit(bool mass, Mass target) {
    uint32_t order = 0, known = 0;  // digits found so far, and which bits they are
    Mass before = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
      __syncthreads();
      select_.bins[threadIdx.x] = 0;
      __syncthreads();
      for (TokenId id = threadIdx.x; id < vocabulary_; id += kThreads) {
        const uint32_t own = OrderOf(logits_[id]);
        if ((own & known) != order) continue;
        const Mass value = ValueOf(id, mass);
        if (value > 0) atomicAdd(&select_.bins[own >> shift & 255], value);
      }
      __syncthreads();
      if (threadIdx.x == 0) {
        int digit = kDigitBins - 1;
        while (digit > 0 && before + select_.bins[digit] < target) before += select_.bins[digit--];
        select_.digit = digit;
        select_.before = before;
      }
      __syncthreads();
      before = select_.before;
      order |= static_cast<uint32_t>(select_.digit) << shift;
      known |= 255u << shift;
    }
    LimitTies(mass, order, target - before);
  }

  // Of the tokens at `order`, all of one value, the first keep what reaches `missing`.
  __device__ void LimitTies(bool mass, uint32_t order, Mass missing) {
    Mass mine = 0;
    for (TokenId id = begin_; id < end_; ++id) {
      if (OrderOf(logits_[id]) == order) mine += ValueOf(id, mass);
    }
    Mass total;
    Mass sum = BlockPrefix(mine, block_, &total);
    if (sum < missing && missing <= sum + mine) {
      for (TokenId id = begin_; id < end_; ++id) {
        if (OrderOf(logits_[id]) != order) continue;
        sum += ValueOf(id, mass);
        if (sum >= missing) {
          select_.digit = id;
          break;
        }
      }
    }
    __syncthreads();
    cutoff_ = {order, select_.digit};
  }

  const SampleTask& task_;
  const float* logits_;
  const TokenId vocabulary_;
  BlockScratch& block_;
  SelectScratch& select_;
  TokenId begin_, end_;  // consecutive tokens of this thread
  Cutoff cutoff_;
  float maximum_ = 0, temperature_ = 1, minimum_ = 0;
};

__device__ float Tame(float logit) { return isnan(logit) ? -kInfinity : fminf(logit, kMaxFloat); }

// bias, penalties, bans; the logits that are drawn from.
__device__ const float* Adjusted(const SampleTask& task, const float* logits, int64_t vocabulary,
                                 float* scratch) {
  const bool penalties =
      task.repetition_penalty != 1 || task.frequency_penalty != 0 || task.presence_penalty != 0;
  const int counts = penalties ? task.count_count : 0;
  if (task.bias_count == 0 && task.banned_count == 0 && counts == 0) return logits;
  for (int64_t i = threadIdx.x; i < vocabulary; i += kThreads) scratch[i] = logits[i];
  __syncthreads();
  const auto known = [&](TokenId token) { return token >= 0 && token < vocabulary; };
  for (int i = threadIdx.x; i < task.bias_count; i += kThreads) {
    const LogitBias bias = task.bias[i];
    if (known(bias.token)) scratch[bias.token] = Tame(scratch[bias.token] + bias.bias);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < counts; i += kThreads) {
    const TokenCount count = task.counts[i];
    if (!known(count.token)) continue;
    float logit = scratch[count.token];
    if (count.in_prompt + count.in_output > 0) {
      logit = logit > 0 ? logit / task.repetition_penalty : logit * task.repetition_penalty;
    }
    logit -= task.frequency_penalty * static_cast<float>(count.in_output);
    if (count.in_output > 0) logit -= task.presence_penalty;
    scratch[count.token] = Tame(logit);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < task.banned_count; i += kThreads) {
    if (known(task.banned[i])) scratch[task.banned[i]] = -kInfinity;
  }
  __syncthreads();
  return scratch;
}

// Two blocks to a multiprocessor leave 128 registers a thread.
__global__ void __launch_bounds__(kThreads, 2)
    Sample(Matrix<const float> logits, const SampleTask* tasks, Matrix<float> scratch,
           SampleOutcome* outcomes, TokenLogprob* top, int32_t max_top) {
  __shared__ BlockScratch block;
  __shared__ SelectScratch select;
  const int64_t row = blockIdx.x;
  const SampleTask& task = tasks[row];
  const float* raw = logits.data + row * logits.stride;
  RowSampler whole(task, raw, logits.cols, block, select);
  bool bad = false;
  for (int64_t i = threadIdx.x; i < logits.cols; i += kThreads) bad |= !(raw[i] <= kMaxFloat);
  bad = BlockAny(bad);
  const Best highest = whole.BestAfter({});
  SampleOutcome outcome = {kNoToken, 0, 1, 0};
  if (bad || highest.logit == -kInfinity) {
    outcome.finite = 0;
    if (threadIdx.x == 0) outcomes[row] = outcome;
    return;
  }
  if (task.score >= 0) {
    if (task.score < logits.cols) outcome.token = task.score;
  } else {
    const float* x = Adjusted(task, raw, logits.cols, scratch.data + row * scratch.stride);
    RowSampler adjusted(task, x, logits.cols, block, select);
    const Best best = adjusted.BestAfter({});
    if (best.logit != -kInfinity) {
      outcome.token = task.temperature > 0 ? adjusted.Draw(best.logit) : best.token;
    }
  }
  if (task.top_logprobs >= 0) {
    const float lse = whole.LogSumExp(highest.logit);
    if (outcome.token != kNoToken) outcome.logprob = raw[outcome.token] - lse;
    const int64_t count = min(static_cast<int64_t>(task.top_logprobs), logits.cols);
    outcome.top_count = static_cast<int32_t>(count);
    Best last;
    for (int64_t i = 0; i < count; ++i) {
      last = whole.BestAfter(last);
      if (threadIdx.x == 0) top[row * max_top + i] = {last.token, last.logit - lse};
    }
  }
  if (threadIdx.x == 0) outcomes[row] = outcome;
}

}  // namespace

void LaunchSample(Stream stream, Matrix<const float> logits, const SampleTask* tasks,
                  Matrix<float> scratch, SampleOutcome* outcomes, TokenLogprob* top,
                  int32_t max_top) {
  Sample<<<static_cast<unsigned>(logits.rows), kThreads, 0, stream>>>(logits, tasks, scratch,
                                                                      outcomes, top, max_top);
}

}  // namespace skim::cuda
