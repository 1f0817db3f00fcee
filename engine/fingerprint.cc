#include "engine/fingerprint.h"

#include <openssl/evp.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"

namespace skim {
namespace {

constexpr int64_t kSampleBytes = 4096;
constexpr char kVersion[] = "1";

}  // namespace

absl::StatusOr<std::string> Fingerprint(const Checkpoint& checkpoint) {
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> digest(EVP_MD_CTX_new(),
                                                                       &EVP_MD_CTX_free);
  bool good = digest && EVP_DigestInit_ex(digest.get(), EVP_sha256(), nullptr) == 1;
  const auto add = [&](const void* data, size_t bytes) {
    good = good && EVP_DigestUpdate(digest.get(), data, bytes) == 1;
  };
  std::vector<char> sample;
  for (const std::string& name : checkpoint.Names()) {
    const std::string line =
        absl::StrCat(name, " [", absl::StrJoin(checkpoint.Shape(name), ", "), "]\n");
    add(line.data(), line.size());
    const int64_t bytes = checkpoint.StoredBytes(name);
    sample.resize(static_cast<size_t>(std::min(kSampleBytes, bytes)));
    for (const int64_t offset : {int64_t{0}, bytes - std::ssize(sample)}) {
      SKIM_RETURN_IF_ERROR(checkpoint.ReadStored(name, offset, sample));
      add(sample.data(), sample.size());
    }
  }
  unsigned char hash[EVP_MAX_MD_SIZE];
  unsigned int length = 0;
  if (!good || EVP_DigestFinal_ex(digest.get(), hash, &length) != 1) {
    return absl::InternalError("SHA-256 cannot be computed");
  }
  return absl::BytesToHexString({reinterpret_cast<const char*>(hash), length});
}

absl::Status CheckMadeFor(const Checkpoint& checkpoint, const SafetensorsFile& file,
                          const std::string& command) {
  const auto tell = [&](const char* key) {
    const auto found = file.metadata().find(key);
    return found == file.metadata().end() ? std::string() : found->second;
  };
  if (tell("version") != kVersion) {
    return absl::InvalidArgumentError(absl::StrCat(file.path(), ": version is \"", tell("version"),
                                                   "\", not ", kVersion, "; ", command,
                                                   " makes it anew"));
  }
  SKIM_ASSIGN_OR_RETURN(const std::string fingerprint, Fingerprint(checkpoint));
  if (tell("fingerprint") == fingerprint) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(file.path(), ": was made for other weights than those in ",
                   checkpoint.directory(), "; ", command, " makes it anew"));
}

}  // namespace skim
