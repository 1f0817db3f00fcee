#include "engine/safetensors.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/checked_math.h"
#include "base/status_macros.h"
#include "engine/json_file.h"

namespace skim {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors are little-endian");

constexpr int64_t kMaxHeaderBytes = 100 << 20;  // the format's own limit
constexpr size_t kMaxDims = 8;

struct TypeInfo {
  StoredType type;
  int64_t bits;
};

TypeInfo InfoOf(const std::string& name) {
  if (name == "F32") return {StoredType::kF32, 32};
  if (name == "F16") return {StoredType::kF16, 16};
  if (name == "BF16") return {StoredType::kBf16, 16};
  if (name == "I64") return {StoredType::kI64, 64};
  if (name == "I32") return {StoredType::kI32, 32};
  if (name == "F64" || name == "U64") return {StoredType::kOther, 64};
  if (name == "U32") return {StoredType::kOther, 32};
  if (name == "I16" || name == "U16") return {StoredType::kOther, 16};
  if (name == "I8") return {StoredType::kI8, 8};
  if (name == "F8_E4M3") return {StoredType::kF8E4M3, 8};
  if (name == "U8" || name == "BOOL" || name == "F8_E5M2") return {StoredType::kOther, 8};
  return {StoredType::kOther, 0};
}

float HalfToFloat(uint16_t h) {
  const uint32_t sign = uint32_t{h & 0x8000u} << 16;
  const uint32_t exponent = (h >> 10) & 0x1f;
  const uint32_t mantissa = h & 0x3ff;
  if (exponent == 0) {  // zero and subnormals: mantissa * 2^-24, exact in float
    const float magnitude = std::ldexp(static_cast<float>(mantissa), -24);
    return sign ? -magnitude : magnitude;
  }
  const uint32_t bits = exponent == 31 ? 0x7f800000u | (mantissa << 13)
                                       : ((exponent + 112) << 23) | (mantissa << 13);
  return std::bit_cast<float>(sign | bits);
}

absl::StatusOr<TensorEntry> ParseEntry(const nlohmann::json& value, const std::string& where,
                                       int64_t data_begin, int64_t file_bytes) {
  auto error = [&](const char* what) {
    return absl::InvalidArgumentError(absl::StrCat(where, ": ", what));
  };
  if (!value.is_object()) return error("is not an object");
  const auto dtype = value.find("dtype"), shape = value.find("shape"),
             offsets = value.find("data_offsets");
  if (dtype == value.end() || !dtype->is_string()) return error("dtype is missing");
  if (shape == value.end() || !shape->is_array() || shape->size() > kMaxDims) {
    return error("shape is missing or has too many dimensions");
  }
  if (offsets == value.end() || !offsets->is_array() || offsets->size() != 2 ||
      !(*offsets)[0].is_number_unsigned() || !(*offsets)[1].is_number_unsigned()) {
    return error("data_offsets are not two unsigned numbers");
  }
  const TypeInfo info = InfoOf(*dtype);
  if (info.bits == 0) return error("dtype is unknown");

  TensorEntry entry;
  entry.type = info.type;
  entry.elements = 1;
  for (const auto& dim : *shape) {
    if (!dim.is_number_unsigned() || dim.get<uint64_t>() > uint64_t{INT64_MAX}) {
      return error("shape holds no sizes");
    }
    entry.shape.push_back(dim.get<int64_t>());
    const auto product = CheckedMul(entry.elements, entry.shape.back());
    if (!product) return error("shape overflows");
    entry.elements = *product;
  }
  const auto bits = CheckedMul(entry.elements, info.bits);
  if (!bits) return error("shape overflows");
  const uint64_t begin = (*offsets)[0], end = (*offsets)[1];
  const uint64_t data_bytes = static_cast<uint64_t>(file_bytes - data_begin);
  if (begin > end || end > data_bytes) return error("data_offsets lie outside the file");
  entry.offset = data_begin + static_cast<int64_t>(begin);
  entry.bytes = static_cast<int64_t>(end - begin);
  if (entry.bytes != *bits / 8) return error("data_offsets do not match shape and dtype");
  return entry;
}

}  // namespace

absl::StatusOr<SafetensorsFile> SafetensorsFile::Open(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    return absl::NotFoundError(absl::StrCat("cannot open ", path, ": ", std::strerror(errno)));
  }
  SafetensorsFile file(path, fd);
  SKIM_RETURN_IF_ERROR(file.ReadHeader());
  return file;
}

SafetensorsFile::SafetensorsFile(SafetensorsFile&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)),
      tensors_(std::move(other.tensors_)),
      metadata_(std::move(other.metadata_)) {}

SafetensorsFile::~SafetensorsFile() {
  if (fd_ >= 0) close(fd_);
}

absl::Status SafetensorsFile::ReadAt(int64_t offset, void* out, int64_t bytes) const {
  auto* cursor = static_cast<char*>(out);
  while (bytes > 0) {
    const ssize_t got = pread(fd_, cursor, static_cast<size_t>(bytes), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      return absl::DataLossError(absl::StrCat(path_, ": cannot read ", bytes, " bytes at ", offset));
    }
    cursor += got;
    offset += got;
    bytes -= got;
  }
  return absl::OkStatus();
}

absl::Status SafetensorsFile::ReadHeader() {
  struct stat info;
  if (fstat(fd_, &info) != 0 || !S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(path_, " is not a regular file"));
  }
  const int64_t file_bytes = info.st_size;
  uint64_t header_bytes = 0;
  if (file_bytes < 8) return absl::InvalidArgumentError(absl::StrCat(path_, " is too short"));
  SKIM_RETURN_IF_ERROR(ReadAt(0, &header_bytes, 8));
  if (header_bytes > static_cast<uint64_t>(kMaxHeaderBytes) ||
      header_bytes > static_cast<uint64_t>(file_bytes - 8)) {
    return absl::InvalidArgumentError(absl::StrCat(path_, ": header is longer than the file"));
  }
  std::string text(header_bytes, '\0');
  SKIM_RETURN_IF_ERROR(ReadAt(8, text.data(), static_cast<int64_t>(header_bytes)));
  SKIM_ASSIGN_OR_RETURN(nlohmann::json header, ParseJson(text, path_ + ": header"));
  if (!header.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(path_, ": header is not a JSON object"));
  }
  const int64_t data_begin = 8 + static_cast<int64_t>(header_bytes);
  std::vector<std::pair<int64_t, int64_t>> ranges;
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__") {
      for (const auto& [key, text] : value.items()) {
        if (value.is_object() && text.is_string()) metadata_.emplace(key, text.get<std::string>());
      }
      continue;
    }
    SKIM_ASSIGN_OR_RETURN(TensorEntry entry, ParseEntry(value, absl::StrCat(path_, ": ", name),
                                                        data_begin, file_bytes));
    ranges.emplace_back(entry.offset, entry.offset + entry.bytes);
    tensors_.emplace(name, std::move(entry));
  }
  // The format allows neither overlaps nor holes: bytes outside every tensor hide things.
  std::sort(ranges.begin(), ranges.end());
  int64_t cursor = data_begin;
  for (const auto& [begin, end] : ranges) {
    if (begin != cursor) {
      return absl::InvalidArgumentError(absl::StrCat(path_, ": tensors overlap or leave a hole"));
    }
    cursor = end;
  }
  if (cursor != file_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(path_, ": bytes after the last tensor"));
  }
  return absl::OkStatus();
}

absl::StatusOr<const TensorEntry*> SafetensorsFile::Find(const std::string& name) const {
  const auto it = tensors_.find(name);
  if (it == tensors_.end()) {
    return absl::NotFoundError(absl::StrCat(path_, ": no tensor ", name));
  }
  return &it->second;
}

absl::Status SafetensorsFile::ReadElements(const std::string& name, int64_t begin,
                                           std::span<float> out) const {
  SKIM_ASSIGN_OR_RETURN(const TensorEntry* entry, Find(name));
  const int64_t count = static_cast<int64_t>(out.size());
  if (entry->type == StoredType::kF32) {
    SKIM_RETURN_IF_ERROR(ReadAt(entry->offset + begin * 4, out.data(), count * 4));
  } else if (entry->type == StoredType::kF16 || entry->type == StoredType::kBf16) {
    std::vector<uint16_t> raw(out.size());
    SKIM_RETURN_IF_ERROR(ReadAt(entry->offset + begin * 2, raw.data(), count * 2));
    const bool half = entry->type == StoredType::kF16;
    std::transform(raw.begin(), raw.end(), out.begin(),
                   [half](uint16_t u) { return half ? HalfToFloat(u) : ToFloat(Bf16{u}); });
  } else {
    return absl::InvalidArgumentError(absl::StrCat(path_, ": ", name, " is not F32, F16 or BF16"));
  }
  for (size_t i = 0; i < out.size(); ++i) {
    if (!std::isfinite(out[i])) {
      return absl::InvalidArgumentError(
          absl::StrCat(path_, ": ", name, " element ", begin + static_cast<int64_t>(i),
                       " is not finite"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<float>> SafetensorsFile::ReadFloat(const std::string& name) const {
  SKIM_ASSIGN_OR_RETURN(const TensorEntry* entry, Find(name));
  std::vector<float> out(static_cast<size_t>(entry->elements));
  SKIM_RETURN_IF_ERROR(ReadElements(name, 0, out));
  return out;
}

absl::StatusOr<std::vector<Bf16>> SafetensorsFile::ReadBf16(const std::string& name) const {
  SKIM_ASSIGN_OR_RETURN(const TensorEntry* entry, Find(name));
  std::vector<Bf16> out(static_cast<size_t>(entry->elements));
  // In blocks: a float copy of a whole embedding would double the peak memory of a load.
  std::vector<float> block(std::min<size_t>(out.size(), size_t{1} << 20));
  for (size_t begin = 0; begin < out.size(); begin += block.size()) {
    const size_t count = std::min(block.size(), out.size() - begin);
    SKIM_RETURN_IF_ERROR(
        ReadElements(name, static_cast<int64_t>(begin), std::span(block).first(count)));
    for (size_t i = 0; i < count; ++i) {
      out[begin + i] = ToBf16(block[i]);
      if (!std::isfinite(ToFloat(out[begin + i]))) {
        return absl::InvalidArgumentError(
            absl::StrCat(path_, ": ", name, " element ", begin + i, " exceeds bf16"));
      }
    }
  }
  return out;
}

absl::StatusOr<std::vector<int64_t>> SafetensorsFile::ReadInt(const std::string& name) const {
  SKIM_ASSIGN_OR_RETURN(const TensorEntry* entry, Find(name));
  std::vector<int64_t> out(static_cast<size_t>(entry->elements));
  if (entry->type == StoredType::kI64) {
    SKIM_RETURN_IF_ERROR(ReadAt(entry->offset, out.data(), entry->bytes));
  } else if (entry->type == StoredType::kI32) {
    std::vector<int32_t> raw(out.size());
    SKIM_RETURN_IF_ERROR(ReadAt(entry->offset, raw.data(), entry->bytes));
    std::copy(raw.begin(), raw.end(), out.begin());
  } else {
    return absl::InvalidArgumentError(absl::StrCat(path_, ": ", name, " is not I64 or I32"));
  }
  return out;
}

absl::StatusOr<std::vector<uint8_t>> SafetensorsFile::ReadCodes(const std::string& name) const {
  SKIM_ASSIGN_OR_RETURN(const TensorEntry* entry, Find(name));
  if (entry->type != StoredType::kI8 && entry->type != StoredType::kF8E4M3) {
    return absl::InvalidArgumentError(absl::StrCat(path_, ": ", name, " is not I8 or F8_E4M3"));
  }
  std::vector<uint8_t> out(static_cast<size_t>(entry->elements));
  SKIM_RETURN_IF_ERROR(ReadAt(entry->offset, out.data(), entry->bytes));
  if (entry->type == StoredType::kI8) return out;
  const auto nan = std::ranges::find_if(out, [](uint8_t code) { return (code & 0x7f) == 0x7f; });
  if (nan == out.end()) return out;
  return absl::InvalidArgumentError(
      absl::StrCat(path_, ": ", name, " element ", nan - out.begin(), " is not finite"));
}

absl::Status SafetensorsFile::ReadStored(const std::string& name, int64_t offset,
                                         std::span<char> out) const {
  SKIM_ASSIGN_OR_RETURN(const TensorEntry* entry, Find(name));
  if (offset < 0 || offset > entry->bytes || std::ssize(out) > entry->bytes - offset) {
    return absl::OutOfRangeError(absl::StrCat(path_, ": ", name, " has fewer bytes"));
  }
  return ReadAt(entry->offset + offset, out.data(), std::ssize(out));
}

}  // namespace skim
