#include "text/tokenizer.h"

#include <utility>

#include "base/status_macros.h"
#include "text/skim_text.h"

namespace skim {
namespace {

SkimTextSlice Slice(std::string_view s) { return {s.data(), s.size()}; }

std::string Take(SkimTextBytes bytes) {
  std::string s(bytes.ptr, bytes.len);
  skim_text_bytes_free(bytes);
  return s;
}

std::vector<TokenId> Take(SkimTextIds ids) {
  std::vector<TokenId> v(ids.ptr, ids.ptr + ids.len);
  skim_text_ids_free(ids);
  return v;
}

absl::Status ToStatus(int32_t code, SkimTextBytes error) {
  if (code == 0) return absl::OkStatus();
  return absl::Status(static_cast<absl::StatusCode>(code), Take(error));
}

// Pieces of a stream cannot fail but by a bug in the library; the stream then stays silent.
std::string TakeOrEmpty(int32_t code, SkimTextBytes out, SkimTextBytes error) {
  if (code == 0) return Take(out);
  skim_text_bytes_free(error);
  return "";
}

std::vector<SkimTextMessage> ToC(std::span<const ChatMessage> messages) {
  std::vector<SkimTextMessage> c;
  c.reserve(messages.size());
  for (const ChatMessage& m : messages) c.push_back({Slice(m.role), Slice(m.content)});
  return c;
}

class RustStream final : public TextStream {
 public:
  explicit RustStream(SkimTextStream* stream) : stream_(stream) {}
  ~RustStream() override {
    if (stream_ != nullptr) skim_text_stream_free(stream_);
  }
  RustStream(const RustStream&) = delete;
  RustStream& operator=(const RustStream&) = delete;

  std::string Push(TokenId id) override {
    if (stream_ == nullptr) return "";
    SkimTextBytes out, error;
    const int32_t code = skim_text_stream_push(stream_, id, &out, &error);
    return TakeOrEmpty(code, out, error);
  }

  std::string Flush() override {
    if (stream_ == nullptr) return "";
    SkimTextBytes out, error;
    const int32_t code = skim_text_stream_flush(stream_, &out, &error);
    return TakeOrEmpty(code, out, error);
  }

 private:
  SkimTextStream* stream_;
};

}  // namespace

struct Tokenizer::Impl {
  explicit Impl(SkimText* text) : text(text) {}
  ~Impl() { skim_text_free(text); }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  SkimText* text;
};

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::string& directory) {
  SkimText* text = nullptr;
  SkimTextBytes error;
  const int32_t code = skim_text_load(Slice(directory), &text, &error);
  SKIM_RETURN_IF_ERROR(ToStatus(code, error));
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::make_unique<Impl>(text)));
}

absl::StatusOr<std::vector<TokenId>> Tokenizer::Encode(std::string_view text, bool add_special,
                                                       bool parse_special) const {
  SkimTextIds ids;
  SkimTextBytes error;
  const int32_t code =
      skim_text_encode(impl_->text, Slice(text), add_special, parse_special, &ids, &error);
  SKIM_RETURN_IF_ERROR(ToStatus(code, error));
  return Take(ids);
}

absl::StatusOr<std::string> Tokenizer::Decode(std::span<const TokenId> ids,
                                              bool skip_special) const {
  SkimTextBytes out, error;
  const int32_t code =
      skim_text_decode(impl_->text, ids.data(), ids.size(), skip_special, &out, &error);
  SKIM_RETURN_IF_ERROR(ToStatus(code, error));
  return Take(out);
}

std::string Tokenizer::TokenText(TokenId id) const {
  SkimTextBytes out, error;
  const int32_t code = skim_text_token_text(impl_->text, id, &out, &error);
  return TakeOrEmpty(code, out, error);
}

bool Tokenizer::has_chat_template() const { return skim_text_has_chat_template(impl_->text); }

absl::StatusOr<std::vector<TokenId>> Tokenizer::EncodeChat(
    std::span<const ChatMessage> messages, bool add_generation_prompt) const {
  const std::vector<SkimTextMessage> c = ToC(messages);
  SkimTextIds ids;
  SkimTextBytes error;
  const int32_t code = skim_text_encode_chat(impl_->text, c.data(), c.size(),
                                             add_generation_prompt, &ids, &error);
  SKIM_RETURN_IF_ERROR(ToStatus(code, error));
  return Take(ids);
}

absl::StatusOr<std::string> Tokenizer::RenderChat(std::span<const ChatMessage> messages,
                                                  bool add_generation_prompt) const {
  const std::vector<SkimTextMessage> c = ToC(messages);
  SkimTextBytes out, error;
  const int32_t code = skim_text_render_chat(impl_->text, c.data(), c.size(),
                                             add_generation_prompt, &out, &error);
  SKIM_RETURN_IF_ERROR(ToStatus(code, error));
  return Take(out);
}

int32_t Tokenizer::vocab_size() const { return skim_text_vocab_size(impl_->text); }

std::unique_ptr<TextStream> Tokenizer::NewStream(bool skip_special) const {
  SkimTextStream* stream = nullptr;
  SkimTextBytes error;
  if (skim_text_stream_new(impl_->text, skip_special, &stream, &error) != 0) {
    skim_text_bytes_free(error);
    stream = nullptr;
  }
  return std::make_unique<RustStream>(stream);
}

}  // namespace skim
