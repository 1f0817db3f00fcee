// One safetensors file, read defensively: every offset, shape and size in the header is
// checked against the file before anything is used, and tensors are read, not mapped, so a
// file that shrinks under us is an error and not a signal.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/bf16.h"

namespace skim {

enum class StoredType : uint8_t { kF32, kF16, kBf16, kI64, kI32, kI8, kF8E4M3, kOther };

struct TensorEntry {
  StoredType type = StoredType::kOther;
  std::vector<int64_t> shape;
  int64_t offset = 0;  // from the start of the file
  int64_t bytes = 0;
  int64_t elements = 0;
};

class SafetensorsFile {
 public:
  static absl::StatusOr<SafetensorsFile> Open(const std::string& path);
  SafetensorsFile(SafetensorsFile&& other) noexcept;
  SafetensorsFile& operator=(SafetensorsFile&&) = delete;
  ~SafetensorsFile();

  const std::map<std::string, TensorEntry>& tensors() const { return tensors_; }
  // Of "__metadata__", what is text.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::string& path() const { return path_; }

  // Values as bf16 (rounded to nearest even from fp32 and fp16) or float (exact).
  // INVALID_ARGUMENT for a NaN or infinity, or one that appears by rounding; the error
  // names tensor and element.
  absl::StatusOr<std::vector<Bf16>> ReadBf16(const std::string& name) const;
  absl::StatusOr<std::vector<float>> ReadFloat(const std::string& name) const;
  absl::StatusOr<std::vector<int64_t>> ReadInt(const std::string& name) const;
  // The bytes of an I8 or F8_E4M3 tensor. INVALID_ARGUMENT for a code that is NaN.
  absl::StatusOr<std::vector<uint8_t>> ReadCodes(const std::string& name) const;
  // Bytes of a tensor, whatever they mean, from `offset` on. OUT_OF_RANGE if it has fewer.
  absl::Status ReadStored(const std::string& name, int64_t offset, std::span<char> out) const;

 private:
  SafetensorsFile(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  absl::Status ReadHeader();
  absl::StatusOr<const TensorEntry*> Find(const std::string& name) const;
  absl::Status ReadElements(const std::string& name, int64_t begin, std::span<float> out) const;
  absl::Status ReadAt(int64_t offset, void* out, int64_t bytes) const;

  std::string path_;
  int fd_;
  std::map<std::string, TensorEntry> tensors_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace skim
