// The C ABI of the Rust library in text/src. Only tokenizer.cc includes it.
//
// Text goes in as borrowed (ptr, len), UTF-8, NUL bytes allowed. A call returns 0 and fills
// `out`, or returns an absl::StatusCode and fills `error` (a sentence); only the one filled is
// to be freed, with the matching free function. No panic leaves the library. A SkimText may
// be used by any number of threads at once, a stream by one at a time.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct SkimText SkimText;
typedef struct SkimTextStream SkimTextStream;

typedef struct {
  const char* ptr;
  size_t len;
} SkimTextSlice;

typedef struct {
  char* ptr;
  size_t len;
} SkimTextBytes;

typedef struct {
  int32_t* ptr;
  size_t len;
} SkimTextIds;

typedef struct {
  SkimTextSlice role;
  SkimTextSlice content;
} SkimTextMessage;

int32_t skim_text_load(SkimTextSlice directory, SkimText** out, SkimTextBytes* error);
void skim_text_free(SkimText* text);

int32_t skim_text_encode(const SkimText* text, SkimTextSlice input, bool add_special,
                         bool parse_special, SkimTextIds* out, SkimTextBytes* error);
int32_t skim_text_decode(const SkimText* text, const int32_t* ids, size_t count,
                         bool skip_special, SkimTextBytes* out, SkimTextBytes* error);
int32_t skim_text_token_text(const SkimText* text, int32_t id, SkimTextBytes* out,
                             SkimTextBytes* error);
int32_t skim_text_vocab_size(const SkimText* text);

bool skim_text_has_chat_template(const SkimText* text);
int32_t skim_text_encode_chat(const SkimText* text, const SkimTextMessage* messages,
                              size_t count, bool add_generation_prompt, SkimTextIds* out,
                              SkimTextBytes* error);
int32_t skim_text_render_chat(const SkimText* text, const SkimTextMessage* messages,
                              size_t count, bool add_generation_prompt, SkimTextBytes* out,
                              SkimTextBytes* error);

// A stream keeps what it needs of `text` alive.
int32_t skim_text_stream_new(const SkimText* text, bool skip_special, SkimTextStream** out,
                             SkimTextBytes* error);
int32_t skim_text_stream_push(SkimTextStream* stream, int32_t id, SkimTextBytes* out,
                              SkimTextBytes* error);
int32_t skim_text_stream_flush(SkimTextStream* stream, SkimTextBytes* out,
                               SkimTextBytes* error);
void skim_text_stream_free(SkimTextStream* stream);

void skim_text_bytes_free(SkimTextBytes bytes);
void skim_text_ids_free(SkimTextIds ids);

#ifdef __cplusplus
}
#endif
