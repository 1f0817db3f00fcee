#include "engine/checkpoint.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "engine/json_file.h"

namespace skim {
namespace {

constexpr int64_t kMaxIndexBytes = 64 << 20;
constexpr size_t kMaxShards = 4096;

// File names of the shards. An index may name nothing outside its own directory.
absl::StatusOr<std::set<std::string>> ShardNames(const std::string& path) {
  SKIM_ASSIGN_OR_RETURN(nlohmann::json index, ReadJsonObject(path, kMaxIndexBytes));
  const auto map = index.find("weight_map");
  if (map == index.end() || !map->is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": weight_map is missing"));
  }
  std::set<std::string> names;
  for (const auto& [tensor, file] : map->items()) {
    if (!file.is_string()) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": weight_map of ", tensor, " is no name"));
    }
    const std::string name = file.get<std::string>();
    if (name.empty() || name.find('/') != std::string::npos || name.front() == '.' ||
        name.find('\0') != std::string::npos) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": \"", name, "\" is no file name"));
    }
    names.insert(name);
  }
  if (names.empty() || names.size() > kMaxShards) {
    return absl::InvalidArgumentError(absl::StrCat(path, " names ", names.size(), " files"));
  }
  return names;
}

}  // namespace

absl::StatusOr<Checkpoint> Checkpoint::Open(const std::string& directory) {
  Checkpoint checkpoint;
  checkpoint.directory_ = directory;
  const std::string index = directory + "/model.safetensors.index.json";
  std::set<std::string> names = {"model.safetensors"};
  if (std::filesystem::exists(index)) {
    SKIM_ASSIGN_OR_RETURN(names, ShardNames(index));
  }
  for (const std::string& name : names) {
    SKIM_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(directory + "/" + name));
    for (const auto& [tensor, entry] : file.tensors()) {
      if (!checkpoint.file_of_.emplace(tensor, checkpoint.files_.size()).second) {
        return absl::InvalidArgumentError(absl::StrCat(file.path(), ": ", tensor, " is in two files"));
      }
    }
    checkpoint.files_.push_back(std::move(file));
  }
  return checkpoint;
}

absl::StatusOr<const SafetensorsFile*> Checkpoint::Find(const std::string& name,
                                                        const std::vector<int64_t>& shape) const {
  const auto it = file_of_.find(name);
  if (it == file_of_.end()) {
    return absl::NotFoundError(absl::StrCat(directory_, ": no tensor ", name));
  }
  const SafetensorsFile& file = files_[it->second];
  const std::vector<int64_t>& stored = file.tensors().at(name).shape;
  if (stored != shape) {
    return absl::InvalidArgumentError(
        absl::StrCat(file.path(), ": ", name, " has shape [", absl::StrJoin(stored, ", "),
                     "], config.json says [", absl::StrJoin(shape, ", "), "]"));
  }
  return &file;
}

absl::StatusOr<std::vector<Bf16>> Checkpoint::Bf16Tensor(const std::string& name,
                                                         const std::vector<int64_t>& shape) const {
  SKIM_ASSIGN_OR_RETURN(const SafetensorsFile* file, Find(name, shape));
  return file->ReadBf16(name);
}

absl::StatusOr<std::vector<float>> Checkpoint::FloatTensor(const std::string& name,
                                                           const std::vector<int64_t>& shape) const {
  SKIM_ASSIGN_OR_RETURN(const SafetensorsFile* file, Find(name, shape));
  return file->ReadFloat(name);
}

bool Checkpoint::HasCodes(const std::string& name) const {
  const auto it = file_of_.find(name);
  if (it == file_of_.end()) return false;
  const StoredType type = files_[it->second].tensors().at(name).type;
  return type == StoredType::kI8 || type == StoredType::kF8E4M3;
}

absl::StatusOr<StoredCodes> Checkpoint::Codes(const std::string& name,
                                              const std::vector<int64_t>& shape,
                                              WeightFormat format) const {
  SKIM_ASSIGN_OR_RETURN(const SafetensorsFile* file, Find(name, shape));
  const bool fp8 = format == WeightFormat::kFp8;
  if (file->tensors().at(name).type != (fp8 ? StoredType::kF8E4M3 : StoredType::kI8)) {
    return absl::InvalidArgumentError(absl::StrCat(file->path(), ": ", name, " is not ",
                                                   fp8 ? "F8_E4M3" : "I8",
                                                   ", as quantization_config says"));
  }
  StoredCodes stored;
  SKIM_ASSIGN_OR_RETURN(stored.codes, file->ReadCodes(name));
  const std::string scale_name = name + "_scale";
  SKIM_ASSIGN_OR_RETURN(const SafetensorsFile* scale_file, Find(scale_name, {shape[0], 1}));
  SKIM_ASSIGN_OR_RETURN(stored.scales, scale_file->ReadFloat(scale_name));
  const auto bad = std::ranges::find_if(stored.scales, [](float scale) { return scale <= 0; });
  if (bad == stored.scales.end()) return stored;
  return absl::InvalidArgumentError(absl::StrCat(scale_file->path(), ": ", scale_name, " element ",
                                                 bad - stored.scales.begin(), " is not positive"));
}

absl::Status Checkpoint::ReadStored(const std::string& name, int64_t offset,
                                    std::span<char> out) const {
  return FileOf(name).ReadStored(name, offset, out);
}

std::vector<std::string> Checkpoint::Names() const {
  std::vector<std::string> names;
  for (const auto& [name, file] : file_of_) names.push_back(name);
  return names;
}

const std::vector<int64_t>& Checkpoint::Shape(const std::string& name) const {
  return FileOf(name).tensors().at(name).shape;
}

int64_t Checkpoint::StoredBytes(const std::string& name) const {
  const auto it = file_of_.find(name);
  return it == file_of_.end() ? 0 : files_[it->second].tensors().at(name).bytes;
}

int64_t Checkpoint::total_bytes() const {
  int64_t sum = 0;
  for (const SafetensorsFile& file : files_) {
    for (const auto& [name, entry] : file.tensors()) sum += entry.bytes;
  }
  return sum;
}

}  // namespace skim
