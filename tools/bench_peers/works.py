"""The work that everybody does, and what is measured of it.

One visit to a peer is: a warm-up, REPEATS_SINGLE times one stream of 512 tokens in and 128 out
(ttft512, decode1), one prompt of 4096 tokens (ttft4096), and 16 streams of 512 in and 128 out at
once (batch16). Output lengths are exact, end tokens are ignored, no prompt is ever sent twice.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench_peers.errors import BenchError

PROMPT_TOKENS = 512
LONG_PROMPT_TOKENS = 4096
OUTPUT_TOKENS = 128
STREAMS = 16
REPEATS_SINGLE = 2
CONTEXT_TOKENS = LONG_PROMPT_TOKENS + OUTPUT_TOKENS


@dataclass(frozen=True)
class Metric:
    work: str
    name: str
    unit: str
    higher_is_better: bool
    meaning: str

    def ratio(self, ours: float, theirs: float) -> float:
        """Above 1 = ours is better."""
        return ours / theirs if self.higher_is_better else theirs / ours


METRICS = (
    Metric(
        "decode1",
        "decode1_tokens_per_s",
        "tokens/s",
        True,
        f"one stream, after a prompt of {PROMPT_TOKENS}: tokens after the first, over their time",
    ),
    Metric(
        "ttft512",
        "ttft512_ms",
        "ms",
        False,
        f"time to the first token of a prompt of {PROMPT_TOKENS} tokens",
    ),
    Metric(
        "ttft4096",
        "ttft4096_ms",
        "ms",
        False,
        f"time to the first token of a prompt of {LONG_PROMPT_TOKENS} tokens",
    ),
    Metric(
        "batch16",
        "batch16_tokens_per_s",
        "tokens/s",
        True,
        f"{STREAMS} streams sent at once, {PROMPT_TOKENS} tokens in and {OUTPUT_TOKENS} out: "
        "all generated tokens, over the time from the first request to the last token",
    ),
)

# Metric name -> samples.
Samples = dict[str, list[float]]


@dataclass(frozen=True)
class Stream:
    """One finished stream; seconds since the requests of its batch were sent."""

    first_token_s: float
    last_token_s: float
    prompt_tokens: int
    generated_tokens: int


# Sends all prompts at once and waits for all of them; (prompts, tokens to generate).
Run = Callable[[Sequence[list[int]], int], Sequence[Stream]]


class Prompts:
    """Random token ids, different for every prompt, so that no prefix cache can help."""

    def __init__(self, seed: int, vocabulary: int) -> None:
        # The first ids of a vocabulary are special tokens in all the models we know.
        self._lowest = min(100, vocabulary // 2)
        self._vocabulary = vocabulary
        self._random = random.Random(seed)

    def make(self, tokens: int) -> list[int]:
        return [self._random.randrange(self._lowest, self._vocabulary) for _ in range(tokens)]


def visit(run: Run, prompts: Prompts) -> Samples:
    def checked(count: int, prompt_tokens: int, output_tokens: int) -> Sequence[Stream]:
        batch = [prompts.make(prompt_tokens) for _ in range(count)]
        streams = run(batch, output_tokens)
        check_lengths(streams, count, prompt_tokens, output_tokens)
        return streams

    # Some peers compile for each new shape; a server that has been up for a while has done that.
    checked(1, PROMPT_TOKENS, 4)
    checked(1, LONG_PROMPT_TOKENS, 1)
    checked(STREAMS, PROMPT_TOKENS // 8, 4)

    samples: Samples = {metric.name: [] for metric in METRICS}
    for _ in range(REPEATS_SINGLE):
        (stream,) = checked(1, PROMPT_TOKENS, OUTPUT_TOKENS)
        decode_s = stream.last_token_s - stream.first_token_s
        if decode_s <= 0:
            raise BenchError(f"all {OUTPUT_TOKENS} tokens of a stream came at the same time")
        samples["ttft512_ms"].append(stream.first_token_s * 1e3)
        samples["decode1_tokens_per_s"].append((OUTPUT_TOKENS - 1) / decode_s)
    (stream,) = checked(1, LONG_PROMPT_TOKENS, 1)
    samples["ttft4096_ms"].append(stream.first_token_s * 1e3)
    streams = checked(STREAMS, PROMPT_TOKENS, OUTPUT_TOKENS)
    seconds = max(stream.last_token_s for stream in streams)
    samples["batch16_tokens_per_s"].append(STREAMS * OUTPUT_TOKENS / seconds)
    return samples


def check_lengths(
    streams: Sequence[Stream], count: int, prompt_tokens: int, output_tokens: int
) -> None:
    if len(streams) != count:
        raise BenchError(f"{len(streams)} of {count} streams finished")
    for stream in streams:
        if (stream.prompt_tokens, stream.generated_tokens) != (prompt_tokens, output_tokens):
            raise BenchError(
                f"asked for {prompt_tokens} tokens in and {output_tokens} out, but "
                f"{stream.prompt_tokens} in and {stream.generated_tokens} out were done"
            )
