#include "server/tokenizer_bundle.h"

#include <openssl/sha.h>
#include <zlib.h>

#include <cstdint>
#include <fstream>
#include <optional>
#include <sstream>

namespace skim {
namespace {

constexpr const char* kFiles[] = {
    "tokenizer.json", "tokenizer_config.json",  "special_tokens_map.json", "added_tokens.json",
    "config.json",    "generation_config.json", "chat_template.jinja",     "chat_template.json",
};

std::optional<std::string> ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (!file || !(text << file.rdbuf())) return std::nullopt;
  return text.str();
}

void Put(uint64_t value, int bytes, std::string* out) {
  for (int i = 0; i < bytes; ++i) out->push_back(static_cast<char>(value >> (8 * i)));
}

// PKWARE's format: a header before each file, all of them again in a directory at the end.
// Little-endian; stored, so both sizes are the same.
class ZipWriter {
 public:
  void Add(const std::string& name, const std::string& content) {
    const uint64_t offset = out_.size();
    std::string common;
    Put(10, 2, &common);    // version needed: 1.0
    Put(0, 2, &common);     // flags
    Put(0, 2, &common);     // stored
    Put(0, 2, &common);     // time: midnight
    Put(0x21, 2, &common);  // date: 1980-01-01, so that equal files give equal archives
    Put(crc32(0, reinterpret_cast<const Bytef*>(content.data()), content.size()), 4, &common);
    Put(content.size(), 4, &common);
    Put(content.size(), 4, &common);
    Put(name.size(), 2, &common);
    Put(0, 2, &common);  // no extra field

    Put(0x04034b50, 4, &out_);
    out_ += common + name + content;

    Put(0x02014b50, 4, &directory_);
    Put(10, 2, &directory_);  // made by version 1.0
    directory_ += common;
    Put(0, 2, &directory_);  // no comment
    Put(0, 2, &directory_);  // disk 0
    Put(0, 2, &directory_);  // internal attributes
    Put(0, 4, &directory_);  // external attributes
    Put(offset, 4, &directory_);
    directory_ += name;
    ++files_;
  }

  std::string Finish() && {
    const uint64_t offset = out_.size();
    out_ += directory_;
    Put(0x06054b50, 4, &out_);
    Put(0, 2, &out_);  // this disk
    Put(0, 2, &out_);  // the directory's disk
    Put(files_, 2, &out_);
    Put(files_, 2, &out_);
    Put(directory_.size(), 4, &out_);
    Put(offset, 4, &out_);
    Put(0, 2, &out_);  // no comment
    return std::move(out_);
  }

 private:
  std::string out_;
  std::string directory_;
  uint16_t files_ = 0;
};

std::string Sha256Hex(const std::string& data) {
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(data.data()), data.size(), digest);
  std::string hex;
  for (const unsigned char byte : digest) {
    hex += "0123456789abcdef"[byte >> 4];
    hex += "0123456789abcdef"[byte & 15];
  }
  return hex;
}

}  // namespace

absl::StatusOr<TokenizerBundle> BundleTokenizer(const std::string& directory) {
  ZipWriter zip;
  for (const char* name : kFiles) {
    const auto content = ReadFile(directory + "/" + name);
    if (content.has_value()) {
      zip.Add(name, *content);
    } else if (name == kFiles[0]) {
      return absl::NotFoundError("the model's tokenizer.json cannot be read");
    }
  }
  TokenizerBundle bundle;
  bundle.zip = std::move(zip).Finish();
  bundle.sha256 = Sha256Hex(bundle.zip);
  return bundle;
}

}  // namespace skim
