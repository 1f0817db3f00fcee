// Writing safetensors files, for tests that need a checkpoint of their own making.
#pragma once

#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace skim {

struct TestTensor {
  std::string dtype;  // "F32", "BF16", "I8", ...
  std::vector<int64_t> shape;
  std::string bytes;

  template <typename T>
  static TestTensor Of(std::string dtype, std::vector<int64_t> shape,
                       const std::vector<T>& values) {
    TestTensor tensor{std::move(dtype), std::move(shape),
                      std::string(values.size() * sizeof(T), 0)};
    if (!values.empty()) std::memcpy(tensor.bytes.data(), values.data(), tensor.bytes.size());
    return tensor;
  }
};

// The content of a file with these tensors.
inline std::string SafetensorsContent(const std::map<std::string, TestTensor>& tensors,
                                      const std::map<std::string, std::string>& metadata = {}) {
  nlohmann::json header;
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::string data;
  for (const auto& [name, tensor] : tensors) {
    header[name] = {{"dtype", tensor.dtype},
                    {"shape", tensor.shape},
                    {"data_offsets", {data.size(), data.size() + tensor.bytes.size()}}};
    data += tensor.bytes;
  }
  const std::string text = header.dump();
  const uint64_t length = text.size();
  std::string content(8, '\0');
  std::memcpy(content.data(), &length, 8);
  return content + text + data;
}

}  // namespace skim
