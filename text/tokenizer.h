// Tokens <-> text and chat templates, from a Hugging Face model directory. The work is
// done by the `tokenizers` and `minijinja` crates behind a C ABI (text/src/lib.rs); no
// panic crosses it. Thread-safe after Load: const methods may run on any thread, but are
// too slow for the serving loop.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/types.h"

namespace skim {

struct ChatMessage {
  std::string role;
  std::string content;
};

class TextStream;

class Tokenizer {
 public:
  // Reads tokenizer.json, tokenizer_config.json (special tokens, chat_template) and, where
  // present, chat_template.jinja. The error names the file and what is wrong with it.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& directory);
  ~Tokenizer();

  // `text` must be UTF-8 (INVALID_ARGUMENT else, with the byte). With parse_special, the text
  // of a special token becomes that token; without, it is ordinary text: the default for what
  // clients send. `add_special` applies the tokenizer's own template (BOS and the like).
  // Special are the tokens flagged so and all of the form <|...|>, which some models forget
  // to flag. Time is linear in the text; memory up to some hundred times its size.
  absl::StatusOr<std::vector<TokenId>> Encode(std::string_view text, bool add_special,
                                              bool parse_special) const;
  // Ids outside [0, vocab_size): INVALID_ARGUMENT. Ids inside that no token has are nothing.
  // Bytes that are no UTF-8 become U+FFFD; the valid characters beside them stay.
  absl::StatusOr<std::string> Decode(std::span<const TokenId> ids, bool skip_special) const;
  // The token's own text, bytes that are no UTF-8 replaced; for log-probabilities.
  std::string TokenText(TokenId id) const;

  bool has_chat_template() const;
  // Renders the model's template and encodes it. What a client wrote never becomes a
  // special token, whatever it contains. FAILED_PRECONDITION without a template;
  // INVALID_ARGUMENT with the template's own message if it raises, fails, or exceeds its
  // limits, and if the messages use all noncharacters from U+FDD0 to U+FDEF.
  absl::StatusOr<std::vector<TokenId>> EncodeChat(std::span<const ChatMessage> messages,
                                                  bool add_generation_prompt) const;
  // The rendered text, for showing.
  absl::StatusOr<std::string> RenderChat(std::span<const ChatMessage> messages,
                                         bool add_generation_prompt) const;

  int32_t vocab_size() const;  // ids are in [0, vocab_size)

  // Incremental decoding of one output. The tokenizer must outlive the stream.
  std::unique_ptr<TextStream> NewStream(bool skip_special) const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// The pieces, concatenated with Flush(), equal Decode() of all ids; every piece is whole
// UTF-8. One thread at a time.
class TextStream {
 public:
  virtual ~TextStream() = default;
  // Text that became certain with this token; often empty inside a multi-byte character.
  // Ids that no token has add nothing.
  virtual std::string Push(TokenId id) = 0;
  // What was held back; an unfinished character becomes U+FFFD.
  virtual std::string Flush() = 0;
};

}  // namespace skim
