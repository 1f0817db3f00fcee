#include "server/config.h"

#include <gtest/gtest.h>

#include "tests/temp_dir.h"

namespace skim {
namespace {

std::variant<ServerConfig, EarlyExit> Parse(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "skimd");
  return ParseCommandLine(static_cast<int>(arguments.size()), arguments.data());
}

ServerConfig MustParse(const std::vector<const char*>& arguments) {
  auto parsed = Parse(arguments);
  if (const auto* exit = std::get_if<EarlyExit>(&parsed)) {
    ADD_FAILURE() << exit->message;
    return {};
  }
  return std::get<ServerConfig>(parsed);
}

TEST(Config, HasDefaultsForAllButTheModel) {
  const ServerConfig config = MustParse({"--model", "/models/smollm2/"});
  EXPECT_EQ(config.engine.model_dir, "/models/smollm2/");
  EXPECT_EQ(config.model_name, "smollm2");
  EXPECT_EQ(config.listen.ToString(), "127.0.0.1:50051");
  EXPECT_EQ(config.metrics.ToString(), "127.0.0.1:9090");
  EXPECT_TRUE(config.workers.empty());
  EXPECT_EQ(config.engine.kv_cache_bytes, 0);
  EXPECT_EQ(config.engine.kv_format, KvFormat::kBf16);
  EXPECT_EQ(config.drain_timeout, 30'000'000);
  EXPECT_EQ(config.limits.max_n, 8);
  EXPECT_FALSE(config.log_prompts);
}

TEST(Config, ServesGatewaysWhereItIsTold) {
  const ServerConfig config =
      MustParse({"--model", "m", "--worker-listen", "0.0.0.0:50052,[::]:50053/fast+int8"});
  ASSERT_EQ(config.workers.size(), 2u);
  EXPECT_EQ(config.workers[0].ToString(), "0.0.0.0:50052");
  EXPECT_EQ(config.workers[0].savings, "");
  EXPECT_EQ(config.workers[1].ToString(), "[::]:50053/fast+int8");
  EXPECT_EQ(config.workers[1].savings, "fast+int8");
}

TEST(Config, ReadsSizesAndTimesWithUnits) {
  const ServerConfig config = MustParse({"--model", "m", "--kv-cache", "512MiB", "--drain-timeout",
                                         "1500ms", "--max-message-bytes", "1MB"});
  EXPECT_EQ(config.engine.kv_cache_bytes, int64_t{512} << 20);
  EXPECT_EQ(config.drain_timeout, 1'500'000);
  EXPECT_EQ(config.scheduler.answer_store_bytes, 0);
  const ServerConfig stores = MustParse({"--model", "m", "--answer-store", "64MiB"});
  EXPECT_EQ(stores.scheduler.answer_store_bytes, int64_t{64} << 20);
  EXPECT_EQ(stores.limits.answer_store_bytes, int64_t{64} << 20);
  EXPECT_EQ(config.max_message_bytes, 1'000'000);
}

TEST(Config, ReadsTheMemoryOfADeviceAsBytesOrAShare) {
  const auto memory = [](const char* text) {
    return MustParse({"--model", "m", "--backend", "cuda", "--device-memory", text})
        .engine.backend.device_memory;
  };
  EXPECT_EQ(memory("60GiB").bytes, int64_t{60} << 30);
  EXPECT_EQ(memory("80%").bytes, 0);
  EXPECT_DOUBLE_EQ(memory("80%").share, 0.8);
  EXPECT_DOUBLE_EQ(MustParse({"--model", "m"}).engine.backend.device_memory.share, 0.9);
}

TEST(Config, ChoosesTheFormatOfTheKvCache) {
  for (KvFormat format : {KvFormat::kBf16, KvFormat::kInt8, KvFormat::kFp8}) {
    const std::string name(KvFormatName(format));
    EXPECT_EQ(MustParse({"--model", "m", "--kv-format", name.c_str()}).engine.kv_format, format);
  }
}

TEST(Config, TellsEngineAndSchedulerTheSame) {
  const ServerConfig config =
      MustParse({"--model", "m", "--max-rows-per-step", "96", "--max-running", "7"});
  EXPECT_EQ(config.engine.max_rows_per_step, 96);
  EXPECT_EQ(config.scheduler.max_rows_per_step, 96);
  EXPECT_EQ(config.engine.max_running, 7);
  EXPECT_EQ(config.scheduler.max_running, 7);
}

TEST(Config, ReadsWeightFormatsInOrder) {
  using enum WeightFormat;
  EXPECT_TRUE(MustParse({"--model", "m"}).engine.weights.empty());
  EXPECT_EQ(MustParse({"--model", "m", "--weights", "int8"}).engine.weights,
            std::vector<WeightFormat>{kInt8});
  EXPECT_EQ(MustParse({"--weights", "int4,bf16,fp8", "--model", "m"}).engine.weights,
            (std::vector<WeightFormat>{kInt4, kBf16, kFp8}));
  TempDir directory;
  const std::string file =
      directory.Write("skimd.toml", "model = \"m\"\nweights = [\"bf16\", \"int8\"]\n");
  EXPECT_EQ(MustParse({"--config", file.c_str()}).engine.weights,
            (std::vector<WeightFormat>{kBf16, kInt8}));
}

TEST(Config, ReadsAFileBelowTheCommandLine) {
  TempDir directory;
  const std::string file = directory.Write(
      "skimd.toml", "model = \"/m/a\"\nkv-cache = \"2GiB\"\nmax-n = 3\nlog-prompts = true\n");
  const ServerConfig config = MustParse({"--config", file.c_str(), "--max-n", "4"});
  EXPECT_EQ(config.engine.model_dir, "/m/a");
  EXPECT_EQ(config.engine.kv_cache_bytes, int64_t{2} << 30);
  EXPECT_EQ(config.limits.max_n, 4);
  EXPECT_TRUE(config.log_prompts);
}

TEST(Config, NamesWhatIsWrong) {
  TempDir directory;
  const std::string unknown_key = directory.Write("a.toml", "model = \"m\"\nspeeed = 1\n");
  const std::string bad_value = directory.Write("b.toml", "model = \"m\"\nmax-running = \"x\"\n");
  const std::string missing = directory.path() + "/none.toml";
  struct Case {
    std::vector<const char*> arguments;
    const char* named;
  };
  const Case cases[] = {
      {{}, "--model"},
      {{"--model", "m", "--turbo"}, "--turbo"},
      {{"--model", "m", "--kv-cache", "12 parsecs"}, "parsecs"},
      {{"--model", "m", "--kv-cache", "-1"}, "--kv-cache"},
      {{"--model", "m", "--kv-cache", "99999999999999999999GiB"}, "kv-cache"},
      {{"--model", "m", "--kv-format", "int4"}, "--kv-format"},
      {{"--model", "m", "--listen", "nowhere"}, "--listen"},
      {{"--model", "m", "--worker-listen", "nowhere"}, "--worker-listen"},
      {{"--model", "m", "--worker-listen", "0.0.0.0:1/"}, "--worker-listen"},
      {{"--model", "m", "--listen", "127.0.0.1:70000"}, "--listen"},
      {{"--model", "m", "--metrics", "::1:90"}, "--metrics"},
      {{"--model", "m", "--isa", "mmx"}, "--isa"},
      {{"--model", "m", "--backend", "tpu"}, "--backend"},
      {{"--model", "m", "--device-memory", "1GiB"}, "--device-memory: only the backend cuda"},
      {{"--model", "m", "--backend", "cuda", "--device-memory", "101%"}, "a share as in"},
      {{"--model", "m", "--backend", "cuda", "--device-memory", "0"}, "--device-memory"},
      {{"--model", "m", "--backend", "cuda", "--device-memory", "lots"}, "--device-memory"},
      {{"--model", "m", "--cuda-gemm", "own"}, "--cuda-gemm: only the backend cuda"},
      {{"--model", "m", "--backend", "cuda", "--cuda-gemm", "mkl"}, "--cuda-gemm"},
      {{"--model", "m", "--cuda-graphs", "on"}, "--cuda-graphs: only the backend cuda"},
      {{"--model", "m", "--backend", "cuda", "--cuda-graphs", "1"}, "--cuda-graphs"},
      {{"--model", "m", "--weights", "int3"}, "--weights"},
      {{"--model", "m", "--weights", "bf16,int8,bf16"}, "bf16 is given twice"},
      {{"--model", "m", "--drafters", "oracle"}, "--drafters"},
      {{"--model", "m", "--drafters", "lookup,lookup"}, "lookup is given twice"},
      {{"--model", "m", "--drafters", "lookup,none"}, "--drafters"},
      {{"--model", "m", "--max-draft-tokens", "17"}, "--max-draft-tokens"},
      {{"--model", "m", "--max-decode-slowdown", "1"}, "--max-decode-slowdown"},
      {{"--model", "m", "--max-decode-slowdown", "nan"}, "--max-decode-slowdown"},
      {{"--model", "m", "--max-running", "0"}, "--max-running"},
      {{"--model", "m", "--max-running", "99", "--max-rows-per-step", "64"}, "--max-running"},
      {{"--model", "m", "--max-n", "0"}, "--max-n"},
      {{"--model", "m", "--drain-timeout", "30"}, "--drain-timeout"},
      {{"--model", "m", "--drain-timeout", "9000min"}, "--drain-timeout"},
      {{"--model", "m", "--tls-cert", "c.pem"}, "--tls-key"},
      {{"--model", "m", "--tls-client-ca", "c.pem"}, "--tls-cert"},
      {{"--model", "m", "--log-level", "loud"}, "--log-level"},
      {{"--config", unknown_key.c_str()}, "speeed"},
      {{"--config", bad_value.c_str()}, "--max-running"},
      {{"--model", "m", "--config", missing.c_str()}, "none.toml"},
  };
  for (const Case& c : cases) {
    const auto parsed = Parse(c.arguments);
    const auto* exit = std::get_if<EarlyExit>(&parsed);
    ASSERT_NE(exit, nullptr) << c.named;
    EXPECT_EQ(exit->code, 2) << c.named;
    EXPECT_NE(exit->message.find(c.named), std::string::npos) << c.named << ": " << exit->message;
  }
}

TEST(Config, DraftersAreAllUnlessNamed) {
  const auto drafters = [](std::vector<const char*> arguments) {
    return std::get<ServerConfig>(Parse(arguments)).limits.drafters;
  };
  using enum DrafterKind;
  EXPECT_EQ(drafters({"--model", "m"}), (std::vector{kLookup, kSelf, kHead, kDraftModel}));
  EXPECT_EQ(drafters({"--model", "m", "--drafters", "head"}), std::vector{kHead});
  EXPECT_EQ(drafters({"--model", "m", "--drafters", "self"}), std::vector{kSelf});
  EXPECT_EQ(drafters({"--model", "m", "--drafters", "draft-model"}), std::vector{kDraftModel});
  EXPECT_TRUE(drafters({"--model", "m", "--drafters", "none"}).empty());
}

TEST(Config, HelpTeachesUnitsDefaultsAndExamples) {
  const auto parsed = Parse({"--help"});
  const auto& exit = std::get<EarlyExit>(parsed);
  EXPECT_EQ(exit.code, 0);
  for (const char* part : {"--kv-cache", "512MiB", "127.0.0.1:50051", "Examples"}) {
    EXPECT_NE(exit.message.find(part), std::string::npos) << part;
  }
}

}  // namespace
}  // namespace skim
