#include "engine/companion_file.h"

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "engine/fingerprint.h"

namespace skim {

absl::StatusOr<std::unique_ptr<CompanionFile>> CompanionFile::Open(const Checkpoint& checkpoint,
                                                                   const std::string& name,
                                                                   const std::string& command,
                                                                   Ops* ops) {
  const std::string path = absl::StrCat(checkpoint.directory(), "/", name);
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return nullptr;
  SKIM_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(path));
  SKIM_RETURN_IF_ERROR(CheckMadeFor(checkpoint, file, command));
  return std::unique_ptr<CompanionFile>(new CompanionFile(std::move(file), ops));
}

absl::Status CompanionFile::Error(const std::string& what) const {
  return absl::InvalidArgumentError(absl::StrCat(file_.path(), ": ", what));
}

absl::StatusOr<int64_t> CompanionFile::Rows(const std::string& name, int64_t most) const {
  const auto found = file_.tensors().find(name);
  if (found == file_.tensors().end()) return Error("no tensor " + name);
  const std::vector<int64_t>& shape = found->second.shape;
  if (shape.empty() || shape[0] < 1 || shape[0] > most) {
    return Error(absl::StrCat(name, " has shape [", absl::StrJoin(shape, ", "), "]"));
  }
  return shape[0];
}

absl::Status CompanionFile::Check(const std::string& name,
                                  const std::vector<int64_t>& shape) const {
  const auto found = file_.tensors().find(name);
  if (found == file_.tensors().end()) return Error("no tensor " + name);
  if (found->second.shape == shape) return absl::OkStatus();
  return Error(absl::StrCat(name, " has shape [", absl::StrJoin(found->second.shape, ", "),
                            "], this model needs [", absl::StrJoin(shape, ", "), "]"));
}

absl::StatusOr<std::vector<float>> CompanionFile::Floats(const std::string& name,
                                                         const std::vector<int64_t>& shape) const {
  SKIM_RETURN_IF_ERROR(Check(name, shape));
  return file_.ReadFloat(name);
}

absl::StatusOr<std::vector<int64_t>> CompanionFile::Integers(
    const std::string& name, const std::vector<int64_t>& shape) const {
  SKIM_RETURN_IF_ERROR(Check(name, shape));
  return file_.ReadInt(name);
}

absl::StatusOr<std::unique_ptr<PackedWeight>> CompanionFile::Matrix(const std::string& name,
                                                                    int64_t rows, int64_t cols,
                                                                    WeightFormat format,
                                                                    WeightShape shape) {
  SKIM_RETURN_IF_ERROR(Check(name, {rows, cols}));
  SKIM_ASSIGN_OR_RETURN(const std::vector<Bf16> values, file_.ReadBf16(name));
  return Pack(values, rows, cols, format, shape);
}

absl::StatusOr<std::unique_ptr<PackedWeight>> CompanionFile::Pack(std::span<const Bf16> values,
                                                                  int64_t rows, int64_t cols,
                                                                  WeightFormat format,
                                                                  WeightShape shape) {
  SKIM_ASSIGN_OR_RETURN(std::unique_ptr<PackedWeight> packed,
                        ops_.PackWeight({values.data(), rows, cols, cols}, format, shape));
  bytes_ += packed->bytes();
  return packed;
}

absl::StatusOr<std::unique_ptr<Buffer>> CompanionFile::Vector(const std::string& name,
                                                              int64_t size) {
  SKIM_ASSIGN_OR_RETURN(const std::vector<float> values, Floats(name, {size}));
  return Upload(values);
}

absl::StatusOr<LinearMap> CompanionFile::Map(const std::string& name, int64_t outputs,
                                             int64_t inputs, WeightFormat format) {
  LinearMap map;
  SKIM_ASSIGN_OR_RETURN(map.weight, Matrix(name + ".weight", outputs, inputs, format));
  SKIM_ASSIGN_OR_RETURN(map.bias, Vector(name + ".bias", outputs));
  return map;
}

absl::StatusOr<std::unique_ptr<Buffer>> CompanionFile::Upload(std::span<const float> values) {
  SKIM_ASSIGN_OR_RETURN(std::unique_ptr<Buffer> buffer, ops_.Allocate(values.size_bytes()));
  ops_.Upload(buffer->data(), values.data(), values.size_bytes());
  SKIM_RETURN_IF_ERROR(ops_.Wait());
  bytes_ += values.size_bytes();
  return buffer;
}

}  // namespace skim
