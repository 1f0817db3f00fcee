#include "engine/exit_adapters.h"

#include <optional>
#include <set>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"

namespace skim {
namespace {

// The exit that a tensor is of; nothing if it is of none.
std::optional<int32_t> ExitOf(const std::string& tensor) {
  int32_t exit = 0;
  const std::pair<std::string, std::string> parts = absl::StrSplit(tensor, absl::MaxSplits('.', 1));
  if (!absl::SimpleAtoi(parts.first, &exit)) return std::nullopt;
  // Numbers can be written in several ways, names cannot.
  const std::string name = absl::StrCat(exit);
  if (tensor != name + ".weight" && tensor != name + ".bias") return std::nullopt;
  return exit;
}

}  // namespace

absl::StatusOr<ExitAdapters> ExitAdapters::Load(const ModelConfig& config,
                                                const Checkpoint& checkpoint, Ops* ops) {
  ExitAdapters adapters;
  SKIM_ASSIGN_OR_RETURN(
      const std::unique_ptr<CompanionFile> file,
      CompanionFile::Open(checkpoint, kExitAdapterFile, "./run calibrate --exit-adapters", ops));
  if (!file) return adapters;
  std::set<int32_t> exits;
  for (const auto& [name, entry] : file->tensors()) {
    const std::optional<int32_t> exit = ExitOf(name);
    if (!exit) return file->Error(name + " is no tensor of an exit adapter");
    if (*exit < 1 || *exit >= config.layers) {
      return file->Error(absl::StrCat(name, " is of no exit: they are layers 1 to ",
                                      config.layers - 1, " of this model"));
    }
    exits.insert(*exit);
  }
  if (exits.empty()) return file->Error("no adapter in it");
  const int64_t hidden = config.hidden_size;
  for (const int32_t exit : exits) {
    SKIM_ASSIGN_OR_RETURN(adapters.maps_[exit],
                          file->Map(absl::StrCat(exit), hidden, hidden, WeightFormat::kInt8));
  }
  SKIM_ASSIGN_OR_RETURN(adapters.ones_,
                        file->Upload(std::vector<float>(static_cast<size_t>(hidden), 1.0f)));
  adapters.bytes_ = file->bytes();
  return adapters;
}

std::vector<int32_t> ExitAdapters::exits() const {
  std::vector<int32_t> exits;
  for (const auto& [exit, map] : maps_) exits.push_back(exit);
  return exits;
}

}  // namespace skim
