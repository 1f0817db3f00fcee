#include "kernels/cuda/cuda_ops.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/status_macros.h"
#include "kernels/cuda/packed_weight.h"
#include "kernels/cuda/sample_staging.h"

namespace skim::cuda {
namespace {

class CudaBuffer final : public Buffer {
 public:
  CudaBuffer(Runtime* runtime, void* data, size_t size)
      : runtime_(*runtime), data_(data), size_(size) {}
  ~CudaBuffer() override { runtime_.Free(data_); }
  std::byte* data() const override { return static_cast<std::byte*>(data_); }
  size_t size() const override { return size_; }

 private:
  Runtime& runtime_;
  void* data_;
  size_t size_;
};

// Only this backend's own weights come back to it.
const WeightView& Own(const PackedWeight& weight) {
  return static_cast<const CudaPackedWeight&>(weight).view();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Ops>> CudaOps::Create(const DeviceMemory& memory, bool cublaslt,
                                                     bool graphs) {
  SKIM_ASSIGN_OR_RETURN(std::unique_ptr<Runtime> runtime, Runtime::Create(memory));
  std::unique_ptr<CudaOps> ops(new CudaOps(std::move(runtime), graphs));
  if (cublaslt) {
    SKIM_ASSIGN_OR_RETURN(ops->large_products_, LargeProducts::Create(ops->runtime_.get()));
  }
  return ops;
}

CudaOps::CudaOps(std::unique_ptr<Runtime> runtime, bool graphs)
    : runtime_(std::move(runtime)),
      graphs_(graphs),
      input_codes_(runtime_.get()),
      input_scales_(runtime_.get()),
      attention_parts_(runtime_.get()),
      summed_scores_(runtime_.get()),
      sample_logits_(runtime_.get()),
      sample_results_(runtime_.get()) {}

absl::StatusOr<std::unique_ptr<Buffer>> CudaOps::Allocate(size_t bytes) {
  SKIM_ASSIGN_OR_RETURN(void* const data, runtime_->Allocate(bytes));
  return std::make_unique<CudaBuffer>(runtime_.get(), data, bytes);
}

void CudaOps::Upload(void* device, const void* host, size_t bytes) {
  runtime_->Upload(device, host, bytes);
}

void CudaOps::Download(void* host, const void* device, size_t bytes) {
  runtime_->Download(host, device, bytes);
}

absl::StatusOr<std::unique_ptr<PackedWeight>> CudaOps::PackWeight(Matrix<const Bf16> weight,
                                                                  WeightFormat format,
                                                                  WeightShape shape) {
  return CudaPackedWeight::Pack(runtime_.get(), weight, format, shape);
}

absl::StatusOr<std::unique_ptr<PackedWeight>> CudaOps::PackQuantized(const QuantizedMatrix& weight,
                                                                     WeightShape shape) {
  return CudaPackedWeight::Pack(runtime_.get(), weight, shape);
}

void CudaOps::ExpectRepeat() {
  if (graphs_) runtime_->HoldLaunches();
}

void CudaOps::Embed(const PackedWeight& table, const TokenId* tokens, const TokenId* drawn,
                    Matrix<float> y) {
  if (y.rows == 0 || !runtime_->ok()) return;
  LaunchEmbed(runtime_->launches(), Own(table), tokens, drawn, y);
  runtime_->CheckLaunch("embed");
}

void CudaOps::RmsNorm(Matrix<const float> x, const float* weight, float eps, Matrix<Bf16> y) {
  if (y.rows == 0 || !runtime_->ok()) return;
  LaunchRmsNorm(runtime_->launches(), x, weight, eps, y);
  runtime_->CheckLaunch("rms norm");
}

LinearInput CudaOps::Input(Matrix<const Bf16> x, const WeightView& weight) {
  if (weight.format == WeightFormat::kBf16 || weight.format == WeightFormat::kFp8) {
    return {reinterpret_cast<const std::byte*>(x.data), x.rows, x.cols,
            x.stride * int64_t{sizeof(Bf16)}};
  }
  const int64_t padded = weight.padded_inputs();
  auto* codes = input_codes_.Reserve<int8_t>(static_cast<size_t>(x.rows * padded));
  LinearInput input = {reinterpret_cast<const std::byte*>(codes), x.rows, padded, padded};
  if (weight.format == WeightFormat::kInt8) {
    auto* scales = input_scales_.Reserve<float>(static_cast<size_t>(x.rows));
    if (!runtime_->ok()) return {};
    LaunchQuantizeRows(runtime_->launches(), x, padded, weight.rotated, codes, scales);
    input.scales = scales;
  } else {
    auto* groups =
        input_scales_.Reserve<InputGroup>(static_cast<size_t>(x.rows * padded / kInt4Group));
    if (!runtime_->ok()) return {};
    LaunchQuantizeGroups(runtime_->launches(), x, padded, codes, groups);
    input.groups = groups;
  }
  runtime_->CheckLaunch("quantise");
  return input;
}

void CudaOps::Linear(Matrix<const Bf16> x, const PackedWeight& weight, const float* bias,
                     bool accumulate, Matrix<float> y) {
  if (y.rows == 0 || !runtime_->ok()) return;
  const LinearInput input = Input(x, Own(weight));
  if (!runtime_->ok()) return;
  if (large_products_ && large_products_->Has(input, Own(weight), bias, &y)) {
    return large_products_->Linear(input, Own(weight), bias, accumulate, y);
  }
  LaunchLinear(runtime_->launches(), input, Own(weight), bias, accumulate, y);
  runtime_->CheckLaunch("linear");
}

void CudaOps::LinearSwiGlu(Matrix<const Bf16> x, const PackedWeight& weight, const float* bias,
                           Matrix<Bf16> y) {
  if (y.rows == 0 || !runtime_->ok()) return;
  const LinearInput input = Input(x, Own(weight));
  if (!runtime_->ok()) return;
  if (large_products_ && large_products_->Has(input, Own(weight), bias, nullptr)) {
    return large_products_->LinearSwiGlu(input, Own(weight), bias, y);
  }
  LaunchLinearSwiGlu(runtime_->launches(), input, Own(weight), bias, y);
  runtime_->CheckLaunch("linear swiglu");
}

template <typename T>
const T* CudaOps::UploadList(std::span<const T> list) {
  if (list.empty()) return nullptr;
  return reinterpret_cast<const T*>(
      runtime_->MakeList(list.size_bytes(), [&](std::byte* host, const std::byte*) {
        std::memcpy(host, list.data(), list.size_bytes());
      }));
}

DeviceRows CudaOps::Rows(const AttentionRows& rows) {
  std::vector<RowPlace> places;
  for (const SequenceRows& sequence : rows.sequences) {
    const size_t end = static_cast<size_t>(sequence.row_begin) + sequence.row_count;
    if (places.size() < end) places.resize(end);
    std::fill(places.begin() + sequence.row_begin, places.begin() + static_cast<int64_t>(end),
              RowPlace{sequence.block_begin, sequence.slots, sequence.positions_begin});
  }
  if (places != places_) {
    device_places_ = UploadList<RowPlace>(places);
    if (device_places_ == nullptr) return {};
    places_ = std::move(places);
  }
  int32_t most_slots = 0;
  for (const RowPlace& place : places_) most_slots = std::max(most_slots, place.slots);
  return {static_cast<int64_t>(places_.size()), device_places_, most_slots};
}

AttentionTiles CudaOps::Tiles(const AttentionRows& rows, int sharing) {
  std::vector<AttentionTile> tiles;
  AttentionTiles device;
  for (const bool large : {true, false}) {
    const int32_t most = large ? kLargeAttentionTile : kSmallAttentionTile;
    for (const SequenceRows& sequence : rows.sequences) {
      const int32_t pairs = sequence.row_count * sharing;
      if ((pairs > kSmallAttentionTile) != large) continue;
      const RowPlace place = {sequence.block_begin, sequence.slots, sequence.positions_begin};
      for (int32_t first = 0; first < pairs; first += most) {
        tiles.push_back({place, sequence.row_begin, first, std::min(most, pairs - first)});
        ++(large ? device.large : device.small);
      }
    }
  }
  if (tiles != tiles_) {
    device_tiles_ = UploadList<AttentionTile>(tiles);
    tiles_ = std::move(tiles);
  }
  device.tiles = device_tiles_;
  return device;
}

void CudaOps::RopeAndWriteKv(const RopeWriteArgs& args, const AttentionRows& rows,
                             const KvLayer& kv) {
  const DeviceRows device = Rows(rows);
  if (device.count == 0 || !runtime_->ok()) return;
  LaunchRopeAndWriteKv(runtime_->launches(), args, rows, device, kv);
  runtime_->CheckLaunch("rope");
}

void CudaOps::Attention(const AttentionArgs& args, const AttentionRows& rows, const KvLayer& kv) {
  const DeviceRows device = Rows(rows);
  if (device.count == 0 || !runtime_->ok()) return;
  SKIM_CHECK(kv.layout.head_dim <= kAttentionHeadDim && args.q.stride % 2 == 0 &&
             args.out.stride % 2 == 0);
  const AttentionTiles tiles = Tiles(rows, args.heads / kv.layout.kv_heads);
  const int64_t floats = AttentionPartFloats(args.heads, device, tiles, kv.layout);
  auto* parts = floats > 0 ? attention_parts_.Reserve<float>(static_cast<size_t>(floats)) : nullptr;
  if (!runtime_->ok()) return;
  LaunchAttention(runtime_->launches(), args, rows, device, tiles, kv, parts);
  runtime_->CheckLaunch("attention");
}

void CudaOps::KeyScores(const KeyScoresArgs& args, const AttentionRows& rows, const KvLayer& kv) {
  if (args.targets.empty() || !runtime_->ok()) return;
  std::vector<KeyScoreTask> tasks;
  DeviceTargets device;
  for (const KeyScoreTarget& target : args.targets) {
    const SequenceRows& sequence = rows.sequences[target.sequence];
    SKIM_CHECK(target.window >= 1 && target.window <= sequence.row_count);
    tasks.push_back({sequence.row_begin + sequence.row_count - target.window, target.window,
                     sequence.block_begin, sequence.slots, sequence.positions_begin,
                     target.scores});
    device.most_slots = std::max(device.most_slots, sequence.slots);
  }
  if (device.most_slots == 0) return;
  device.tasks = UploadList<KeyScoreTask>(tasks);
  device.scored_heads = UploadList(args.scored_heads);
  if (!runtime_->ok()) return;
  LaunchKeyScores(runtime_->launches(), args, device, rows, kv);
  runtime_->CheckLaunch("key scores");
}

void CudaOps::PoolScores(const PoolScoresArgs& args) {
  if (args.positions == 0 || !runtime_->ok()) return;
  auto* summed = summed_scores_.Reserve<float>(static_cast<size_t>(args.positions));
  if (!runtime_->ok()) return;
  LaunchPoolScores(runtime_->launches(), args, summed);
  runtime_->CheckLaunch("pool scores");
}

void CudaOps::TopRows(const TopRowsArgs& args) {
  if (args.count == 0 || !runtime_->ok()) return;
  const IndexRange* forced = UploadList(args.forced);
  if (!runtime_->ok()) return;
  LaunchTopRows(runtime_->launches(), args, forced);
  runtime_->CheckLaunch("top rows");
}

void CudaOps::LinearAt(Matrix<const Bf16> x, const PackedWeight& table, const int32_t* index,
                       float bias, Matrix<float> y) {
  if (y.rows == 0 || y.cols == 0 || !runtime_->ok()) return;
  LaunchLinearAt(runtime_->launches(), x, Own(table), index, bias, y);
  runtime_->CheckLaunch("linear at");
}

void CudaOps::GatherRows(Matrix<const float> x, const int32_t* index, Matrix<float> y) {
  if (y.rows == 0 || !runtime_->ok()) return;
  LaunchGatherRows(runtime_->launches(), x, index, y);
  runtime_->CheckLaunch("gather");
}

void CudaOps::ScatterRows(Matrix<const float> x, const int32_t* index, Matrix<float> y) {
  if (x.rows == 0 || !runtime_->ok()) return;
  LaunchScatterRows(runtime_->launches(), x, index, y);
  runtime_->CheckLaunch("scatter");
}

void CudaOps::Sample(const SampleArgs& args, std::span<SampledToken> results) {
  if (args.rows.empty() || !runtime_->ok()) return;
  const Matrix<const float>& logits = args.logits;
  const auto count = static_cast<int64_t>(args.rows.size());
  const SampleStaging staging(args.rows, logits.cols);
  // One upload for the lists, one download for the results.
  auto* out = sample_results_.Reserve<std::byte>(staging.result_bytes());
  auto* adjusted = sample_logits_.Reserve<float>(staging.adjusts() ? count * logits.cols : 1);
  const std::byte* lists = runtime_->MakeList(
      staging.list_bytes(),
      [&](std::byte* host, const std::byte* device) { staging.Write(host, device); });
  std::byte* host_out = runtime_->Stage(staging.result_bytes());
  if (!runtime_->ok()) return;
  LaunchSample(runtime_->launches(), {logits.data, count, logits.cols, logits.stride},
               reinterpret_cast<const SampleTask*>(lists), args.columns,
               {adjusted, count, logits.cols, logits.cols},
               {args.drawn, staging.Outcomes(out), staging.Top(out), staging.max_top()});
  runtime_->CheckLaunch("sample");
  runtime_->Download(host_out, out, staging.result_bytes());
  pending_.push_back({results.first(args.rows.size()), staging.Outcomes(host_out),
                      staging.Top(host_out), staging.max_top()});
}

absl::Status CudaOps::Wait() {
  places_.clear();  // lists do not outlive it
  tiles_.clear();
  SKIM_RETURN_IF_ERROR(runtime_->Wait());
  for (const PendingSample& sample : pending_) {
    for (size_t r = 0; r < sample.results.size(); ++r) {
      const SampleOutcome& outcome = sample.outcomes[r];
      const TokenLogprob* top = sample.top + static_cast<int64_t>(r) * sample.max_top;
      sample.results[r] = {
          outcome.token, outcome.logprob, {top, top + outcome.top_count}, outcome.finite != 0};
    }
  }
  pending_.clear();
  return absl::OkStatus();
}

}  // namespace skim::cuda
