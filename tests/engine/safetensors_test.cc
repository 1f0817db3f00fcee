#include "engine/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "engine/checkpoint.h"
#include "tests/temp_dir.h"

namespace skim {
namespace {

std::string File(const std::string& header, const std::string& data) {
  std::string out(8, '\0');
  const uint64_t length = header.size();
  std::memcpy(out.data(), &length, 8);
  return out + header + data;
}

template <typename T>
std::string Bytes(std::initializer_list<T> values) {
  std::string out(values.size() * sizeof(T), '\0');
  std::memcpy(out.data(), std::data(values), out.size());
  return out;
}

class Safetensors : public ::testing::Test {
 protected:
  absl::StatusOr<SafetensorsFile> Open(const std::string& content) {
    return SafetensorsFile::Open(dir_.Write("m.safetensors", content));
  }
  TempDir dir_;
};

constexpr char kTwo[] = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";

TEST_F(Safetensors, ReadsEveryFloatTypeExactly) {
  auto file = Open(File(R"({"__metadata__":{"format":"pt"},
      "a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
      "b":{"dtype":"BF16","shape":[1,2],"data_offsets":[8,12]},
      "c":{"dtype":"F16","shape":[4],"data_offsets":[12,20]}})",
                        Bytes({1.5f, -2.25f}) + Bytes<uint16_t>({0x3f80, 0xc040}) +
                            Bytes<uint16_t>({0x3c00, 0xc500, 0x0001, 0x8000})));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(*file->ReadFloat("a"), (std::vector<float>{1.5f, -2.25f}));
  EXPECT_EQ(*file->ReadFloat("b"), (std::vector<float>{1.0f, -3.0f}));
  EXPECT_EQ(*file->ReadFloat("c"), (std::vector<float>{1.0f, -5.0f, std::ldexp(1.0f, -24), -0.0f}));
}

TEST_F(Safetensors, RoundsToBf16NearestEven) {
  auto file = Open(File(kTwo, Bytes({1.0f + 1.0f / 256, 1.0f + 3.0f / 256})));
  ASSERT_TRUE(file.ok());
  auto values = file->ReadBf16("a");
  ASSERT_TRUE(values.ok());
  EXPECT_EQ(ToFloat((*values)[0]), 1.0f);             // tie to even mantissa
  EXPECT_EQ(ToFloat((*values)[1]), 1.0f + 4.0f / 256);  // tie to even mantissa
}

TEST_F(Safetensors, RefusesValuesThatAreNotFiniteByNameAndElement) {
  for (float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    auto file = Open(File(kTwo, Bytes({1.0f, bad})));
    ASSERT_TRUE(file.ok());
    EXPECT_THAT(std::string(file->ReadBf16("a").status().message()),
                ::testing::HasSubstr("a element 1"));
  }
  auto file = Open(File(kTwo, Bytes({1.0f, std::numeric_limits<float>::max()})));
  EXPECT_TRUE(file->ReadFloat("a").ok());
  EXPECT_FALSE(file->ReadBf16("a").ok());  // rounds to infinity
}

TEST_F(Safetensors, RefusesBrokenHeaders) {
  const std::string eight(8, '\0');
  const std::pair<const char*, std::string> cases[] = {
      {"too short", "1234"},
      {"header longer than the file", Bytes<uint64_t>({100}) + "{}"},
      {"huge header length", Bytes<uint64_t>({UINT64_MAX}) + "{}"},
      {"no JSON", File("hello", "")},
      {"array", File("[]", "")},
      {"no UTF-8", File("{\"\xff\":1}", "")},
      {"nested deeply", File("{\"a\":" + std::string(100000, '[') + std::string(100000, ']') + "}", "")},
      {"duplicate key", File(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                             R"("a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", eight)},
      {"unknown dtype", File(R"({"a":{"dtype":"F3","shape":[2],"data_offsets":[0,8]}})", eight)},
      {"shape mismatch", File(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", eight)},
      {"negative dimension", File(R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", eight)},
      {"shape overflow",
       File(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296,2],"data_offsets":[0,8]}})", eight)},
      {"bit count overflow",
       File(R"({"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,8]}})", eight)},
      {"offsets reversed", File(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", eight)},
      {"offsets outside", File(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}})", eight)},
      {"offset near 2^64",
       File(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[18446744073709551608,18446744073709551615]}})", eight)},
      {"overlap", File(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                       R"("b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", eight)},
      {"hole", File(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", eight)},
      {"bytes at the end", File(kTwo, eight + "x")},
      {"truncated data", File(kTwo, "1234")},
      {"too many dimensions",
       File(R"({"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,2],"data_offsets":[0,8]}})", eight)},
  };
  for (const auto& [name, content] : cases) {
    EXPECT_FALSE(Open(content).ok()) << name;
  }
}

TEST_F(Safetensors, SurvivesRandomDamage) {
  const std::string good = File(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                                R"("bb":{"dtype":"BF16","shape":[2,2],"data_offsets":[8,16]}})",
                                std::string(16, '\1'));
  std::mt19937 rng(7);
  int accepted = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string bad = good;
    for (int edits = 1 + static_cast<int>(rng() % 3); edits > 0; --edits) {
      bad[rng() % bad.size()] = static_cast<char>(rng());
    }
    if (rng() % 4 == 0) bad.resize(rng() % bad.size());
    auto file = Open(bad);
    if (!file.ok()) continue;
    ++accepted;
    for (const auto& [name, entry] : file->tensors()) (void)file->ReadFloat(name);
  }
  EXPECT_LT(accepted, 3000);
}

TEST_F(Safetensors, AnIndexCannotLeaveItsDirectory) {
  for (const char* name : {"../x.safetensors", "/etc/passwd", ".hidden", "a/b", ""}) {
    dir_.Write("model.safetensors.index.json",
               std::string(R"({"weight_map":{"t":")") + name + "\"}}");
    auto checkpoint = Checkpoint::Open(dir_.path());
    ASSERT_FALSE(checkpoint.ok());
    EXPECT_THAT(std::string(checkpoint.status().message()), ::testing::HasSubstr("no file name"));
  }
}

TEST_F(Safetensors, AMissingTensorOrAWrongShapeIsNamed) {
  dir_.Write("model.safetensors", File(kTwo, std::string(8, '\0')));
  auto checkpoint = Checkpoint::Open(dir_.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_THAT(std::string(checkpoint->FloatTensor("zz", {2}).status().message()),
              ::testing::HasSubstr("no tensor zz"));
  EXPECT_THAT(std::string(checkpoint->FloatTensor("a", {4}).status().message()),
              ::testing::HasSubstr("[2], config.json says [4]"));
}

}  // namespace
}  // namespace skim
