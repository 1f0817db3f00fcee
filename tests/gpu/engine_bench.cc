#include <algorithm>
#include <chrono>
#include <filesystem>
#include <memory>
#include <vector>

#include "tests/engine/harness.h"
#include "tests/gpu/benches.h"
#include "tests/gpu/random_model.h"

namespace skim {
namespace {

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// In which graphs are made, before decoding is measured.
constexpr int32_t kStepsBefore = 2;

struct Sizes {
  int32_t prompt, beside, sequences, steps;
};

class EngineBench {
 public:
  EngineBench(bool tiny, std::optional<double> copy, Report* report)
      : tiny_(tiny),
        sizes_(tiny ? Sizes{40, 7, 3, 2} : Sizes{2048, 512, 32, 32}),
        copy_(copy),
        report_(*report) {}

  void Run(const std::string& directory) {
    std::error_code error;
    std::filesystem::create_directories(directory, error);
    const RandomShape& shape = tiny_ ? kTinyShape : kLlama1b;
    if (const absl::Status status = WriteRandomModel(shape, directory); !status.ok()) {
      return report_.Fail("engine", status);
    }
    const int32_t tokens = sizes_.prompt + sizes_.sequences * sizes_.beside +
                           2 * (sizes_.sequences + 1) * (sizes_.steps + 64);
    HarnessOptions options = {.backend = "cuda",
                              .kv_pages = tokens / 32,  // of all layers each
                              .max_rows = std::max(sizes_.prompt, 64),
                              .formats = {WeightFormat::kBf16, WeightFormat::kInt8}};
    std::vector<TokenId> with, without;
    if (Load(directory, options)) {
      with = Serve(WeightFormat::kBf16);
      Serve(WeightFormat::kInt8);
    }
    harness_.reset();
    options.cuda_graphs = graphs_ = false;
    options.formats = {WeightFormat::kBf16};
    if (Load(directory, options)) without = Serve(WeightFormat::kBf16);
    harness_.reset();
    std::filesystem::remove_all(directory, error);
    report_.Checked("tokens_do_not_depend_on_graphs", with == without && replays_ > 0,
                    {{"weights", "bf16"}, {"graphs_launched", replays_}});
  }

 private:
  bool Load(const std::string& directory, const HarnessOptions& options) {
    auto loaded = EngineHarness::Load(directory, options);
    if (!loaded.ok()) {
      report_.Fail("engine", loaded.status());
      return false;
    }
    harness_ = *std::move(loaded);
    harness_->executor().SetLogitsProbe({});  // it would bring every row's logits to the host
    return true;
  }

  HarnessSequence Sequence(int32_t prompt, WeightFormat format) {
    std::vector<TokenId> tokens;
    for (int32_t i = 0; i < prompt; ++i) tokens.push_back((i * 53 + prompt) % 250);
    HarnessSequence sequence = harness_->NewSequence(std::move(tokens));
    sequence.format = format;
    return sequence;
  }

  // Seconds of steps; nothing on a simulated device.
  std::optional<double> Steps(const std::vector<EngineHarness::Work>& work, int32_t count) {
    const double begin = Now();
    for (int32_t i = 0; i < count; ++i) {
      StepResult result;
      if (const absl::Status status = harness_->Step(work, &result); !status.ok()) {
        report_.Fail("engine", status);
        return std::nullopt;
      }
      replays_ += result.replays;
    }
    return report_.emulated() ? std::nullopt : std::optional(Now() - begin);
  }

  void Tell(const std::string& name, WeightFormat format, int32_t tokens,
            std::optional<double> seconds, Json params) {
    params["weights"] = std::string(WeightFormatName(format));
    params["layers"] = harness_->config().layers;
    params["hidden_size"] = harness_->config().hidden_size;
    report_.Measured(name, seconds ? std::optional(tokens / *seconds) : std::nullopt, "token/s",
                     std::move(params));
  }

  // What a step reads of matrices, keys and values: the least it can take is their copy's time.
  double BytesOfAStep(WeightFormat format, int32_t sequences) const {
    const ModelConfig& c = harness_->config();
    const double hidden = c.hidden_size;
    const double layer = hidden * (c.qkv_width() + c.q_width() + 3.0 * c.intermediate_size);
    const double weights = c.layers * layer + hidden * c.vocab_size;
    const double kv = 2.0 * sequences * sizes_.beside * c.layers * c.kv_width() * sizeof(Bf16);
    return weights * (format == WeightFormat::kInt8 ? 1 : 2) + kv;
  }

  void TellDecode(WeightFormat format, int32_t sequences, std::optional<double> seconds) {
    const double bytes = BytesOfAStep(format, sequences);
    Json params = {
        {"sequences", sequences}, {"context", sizes_.beside}, {"bytes_of_a_step", bytes}};
    params["cuda_graphs"] = graphs_;
    params["share_of_copy"] = nullptr;
    if (seconds && copy_) params["share_of_copy"] = bytes * sizes_.steps / *seconds / *copy_;
    Tell("decode", format, sizes_.steps * sequences, seconds, std::move(params));
  }

  // The tokens of a sequence that is served alone.
  std::vector<TokenId> Serve(WeightFormat format) {
    // Once unmeasured: what is needed for the first time is made then.
    for (const bool measured : {false, true}) {
      if (measured ? !graphs_ : tiny_) continue;  // prompts have no graphs
      HarnessSequence prompt = Sequence(sizes_.prompt, format);
      const auto seconds = Steps({{&prompt, sizes_.prompt}}, 1);
      if (measured) {
        Tell("prefill", format, sizes_.prompt, seconds, {{"prompt_tokens", sizes_.prompt}});
      }
      harness_->Preempt(&prompt);
    }
    HarnessSequence alone = Sequence(sizes_.beside, format);
    Steps({{&alone, sizes_.beside}}, 1);
    Steps({{&alone, 1}}, kStepsBefore);
    TellDecode(format, 1, Steps({{&alone, 1}}, sizes_.steps));
    // The same one among others of other prompts.
    std::vector<HarnessSequence> all;
    for (int32_t i = 0; i < sizes_.sequences; ++i) {
      all.push_back(Sequence(sizes_.beside - i % 5, format));
    }
    std::vector<EngineHarness::Work> decode;
    for (HarnessSequence& sequence : all) {
      Steps({{&sequence, sequence.prompt_tokens}}, 1);
      decode.push_back({&sequence, 1});
    }
    Steps(decode, kStepsBefore);
    TellDecode(format, sizes_.sequences, Steps(decode, sizes_.steps));
    report_.Checked(
        "tokens_do_not_depend_on_the_batch", alone.tokens == all[0].tokens,
        {{"weights", std::string(WeightFormatName(format))}, {"sequences", sizes_.sequences}});
    harness_->Preempt(&alone);
    for (HarnessSequence& sequence : all) harness_->Preempt(&sequence);
    return alone.tokens;
  }

  const bool tiny_;
  const Sizes sizes_;
  const std::optional<double> copy_;
  Report& report_;
  std::unique_ptr<EngineHarness> harness_;
  bool graphs_ = true;  // it may replay
  int64_t replays_ = 0;
};

}  // namespace

void RunEngineBench(bool tiny, const std::string& directory, std::optional<double> copy,
                    Report* report) {
  EngineBench(tiny, copy, report).Run(directory);
}

}  // namespace skim
