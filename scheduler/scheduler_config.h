// Limits of the serving loop, from the daemon's configuration.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/types.h"

namespace skim {

struct SchedulerConfig {
  int32_t max_rows_per_step = 512;       // budget of a step, in tokens at full depth; > 0
  // 0: any. Else above 1: how many times as long a step may take for the prompts computed beside
  // those who decode.
  double max_decode_slowdown = 0;
  int32_t max_revival_rows = 256;        // reserved in a step for tokens to be revived
  int32_t max_running = 64;              // sequences that hold pages; > 0, at most a step's rows
  int32_t max_waiting = 256;             // queue bound by requests
  int64_t max_waiting_tokens = 1 << 20;  // queue bound by prompt tokens
  int32_t max_context = 0;               // tokens of prompt + output; > 0
  bool prefix_cache = true;
  int64_t answer_store_bytes = 0;         // for answers to draft from; 0: none are kept
  size_t channel_tokens = 1024;           // undelivered tokens before a stream is paused
  Micros slow_reader_limit = 30'000'000;  // a paused stream is ended after this long
};

}  // namespace skim
