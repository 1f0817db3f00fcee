// Sampling without sorting the vocabulary: kernels/sampling.h, one block per row.
//
// Probabilities are counted in units of 2^-40 of the likeliest token's weight, as integers: sums
// do not depend on the order in which threads add, so one seed gives one text. A token below
// half a unit is never drawn. Top-k and top-p find their least likely survivor by radix
// selection, 8 bits of the logit at a time.
#include "kernels/cuda/block_select.cuh"
#include "kernels/cuda/launch.h"

namespace skim::cuda {
namespace {

constexpr int kThreads = kSampleThreads;
constexpr float kInfinity = __builtin_inff();
constexpr float kMaxFloat = 3.402823466e+38f;
constexpr float kMassUnit = 1099511627776.0f;  // 2^40

// One row of logits while its block works on it.
class RowSampler {
 public:
  __device__ RowSampler(const SampleTask& task, const float* logits, int64_t vocabulary,
                        BlockScratch& block, SelectScratch& select)
      : task_(task),
        logits_(logits),
        vocabulary_(static_cast<TokenId>(vocabulary)),
        block_(block),
        select_(select),
        share_(vocabulary_) {}

  // The highest logit that comes after `last` in the order of likelihood.
  __device__ Best BestAfter(Best last) {
    Best mine = Best::None();
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
      TokenId id = share_.begin;
      for (; id < share_.end; ++id) {
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
    if (x == -kInfinity || !cutoff_.Takes(OrderOf(x), id)) return 0;
    if (!mass) return 1;
    const float weight = expf((x - maximum_) / temperature_);
    return weight < minimum_ ? 0 : __float2ull_rn(weight * kMassUnit);
  }

  // Of the tokens that are this thread's in id order.
  __device__ Mass ShareOf(bool mass) const {
    Mass sum = 0;
    for (TokenId id = share_.begin; id < share_.end; ++id) sum += ValueOf(id, mass);
    return sum;
  }

  // Keeps the likeliest tokens until their values reach `target` (at least 1, at most all).
  __device__ void Limit(bool mass, Mass target) {
    cutoff_ = BlockSelect(
        vocabulary_, target, [&](TokenId id) { return OrderOf(logits_[id]); },
        [&](TokenId id) { return ValueOf(id, mass); }, block_, select_);
  }

  const SampleTask& task_;
  const float* logits_;
  const TokenId vocabulary_;
  BlockScratch& block_;
  SelectScratch& select_;
  const Share share_;  // of the tokens
  Cutoff cutoff_;      // the least likely survivor of top-k and top-p; all at first
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

__device__ void Tell(const SampleOutcome& outcome, int64_t row, const SampleResults& results) {
  results.outcomes[row] = outcome;
  if (results.drawn != nullptr) results.drawn[row] = outcome.token;
}

// Two blocks to a multiprocessor leave 128 registers a thread.
__global__ void __launch_bounds__(kThreads, 2)
    Sample(Matrix<const float> logits, const SampleTask* tasks, ColumnTokens columns,
           Matrix<float> scratch, SampleResults results) {
  __shared__ BlockScratch block;
  __shared__ SelectScratch select;
  const int64_t row = blockIdx.x;
  const SampleTask& task = tasks[row];
  const float* raw = logits.data + row * logits.stride;
  RowSampler whole(task, raw, logits.cols, block, select);
  bool bad = false;
  for (int64_t i = threadIdx.x; i < logits.cols; i += kThreads) bad |= !(raw[i] <= kMaxFloat);
  bad = BlockAny(bad);
  const Best highest = whole.BestAfter(Best::None());
  SampleOutcome outcome = {kNoToken, 0, 1, 0};
  if (bad || highest.logit == -kInfinity) {
    outcome.finite = 0;
    if (threadIdx.x == 0) Tell(outcome, row, results);
    return;
  }
  if (task.score >= 0) {
    if (task.score < logits.cols) outcome.token = task.score;
  } else {
    const float* x = Adjusted(task, raw, logits.cols, scratch.data + row * scratch.stride);
    RowSampler adjusted(task, x, logits.cols, block, select);
    const Best best = adjusted.BestAfter(Best::None());
    if (best.logit != -kInfinity) {
      outcome.token = task.temperature > 0 ? adjusted.Draw(best.logit) : best.token;
    }
  }
  if (task.top_logprobs >= 0) {
    const float lse = whole.LogSumExp(highest.logit);
    if (outcome.token != kNoToken) outcome.logprob = raw[outcome.token] - lse;
    const int64_t count = min(static_cast<int64_t>(task.top_logprobs), logits.cols);
    outcome.top_count = static_cast<int32_t>(count);
    Best last = Best::None();
    for (int64_t i = 0; i < count; ++i) {
      last = whole.BestAfter(last);
      if (threadIdx.x == 0) {
        results.top[row * results.max_top + i] = {columns.Of(row, last.token, logits.cols),
                                                  last.logit - lse};
      }
    }
  }
  outcome.token = columns.Of(row, outcome.token, logits.cols);
  if (threadIdx.x == 0) Tell(outcome, row, results);
}

}  // namespace

void LaunchSample(LaunchQueue& queue, Matrix<const float> logits, const SampleTask* tasks,
                  const ColumnTokens& columns, Matrix<float> scratch,
                  const SampleResults& results) {
  queue.Add(Sample, static_cast<unsigned>(logits.rows), kThreads, 0, logits, tasks, columns,
            scratch, results);
}

}  // namespace skim::cuda
