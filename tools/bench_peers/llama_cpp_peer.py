"""llama.cpp, by its own llama-batched-bench, which does exactly our work: a prompt, then decode,
for one or several sequences, in one process without a network."""

import json

from bench_peers import works
from bench_peers.errors import BenchError
from bench_peers.gguf_files import gguf_file
from bench_peers.installs import llama_cpp_tool, pinned_version
from bench_peers.peer import VISIT_LIMIT_S, Setup
from bench_peers.processes import output_of
from bench_peers.works import Samples

REQUIREMENTS = "requirements-llama-cpp.txt"
FLAVOURS = {"bf16": "bf16", "int8": "q8_0", "int4": "q4_0"}


class LlamaCppPeer:
    name = "llama.cpp"
    remark = (
        "llama-batched-bench, built natively; int8 is Q8_0, int4 is Q4_0 (embedding Q8_0); "
        "16-bit KV. It neither samples nor serves: no transport is in its times"
    )

    def __init__(self, setup: Setup) -> None:
        self._setup = setup

    def weights(self) -> tuple[str, ...]:
        return tuple(FLAVOURS)

    def prepare(self, weights: str) -> str:
        self._tool()
        self._model(weights)
        return f"of llama-cpp-python {pinned_version(REQUIREMENTS, 'llama-cpp-python')}"

    def visit(self, weights: str, seed: int) -> Samples:
        # The first token comes of the prompt, so one less is decoded.
        decoded = works.OUTPUT_TOKENS - 1
        streams = [1] * works.REPEATS_SINGLE + [works.STREAMS]
        short = self._bench(weights, works.PROMPT_TOKENS, decoded, streams)
        long = self._bench(weights, works.LONG_PROMPT_TOKENS, 1, [1])
        return samples_of(short, long)

    def _bench(self, weights: str, prompt: int, decoded: int, streams: list[int]) -> list[dict]:
        threads = self._setup.threads
        context = max(streams) * (prompt + works.OUTPUT_TOKENS)
        command = [
            *(self._tool(), "-m", self._model(weights), "-c", context),
            *("-npp", prompt, "-ntg", decoded, "-npl", ",".join(map(str, streams))),
            *("-t", threads, "-tb", threads, "--output-format", "jsonl"),
        ]
        log = self._setup.folder / "logs" / f"llama.cpp-{weights}.log"
        text = output_of(command, log, VISIT_LIMIT_S, "llama-batched-bench")
        lines = parse_lines(text + log.read_text(errors="replace"))
        if [line["pl"] for line in lines] != streams:
            raise BenchError(f"llama-batched-bench did not measure {streams} streams, see {log}")
        return lines

    def _tool(self):
        return llama_cpp_tool(
            "llama-batched-bench", REQUIREMENTS, self._setup.folder, self._setup.jobs
        )

    def _model(self, weights: str):
        return gguf_file(FLAVOURS[weights], self._setup.gguf, self._setup.folder)


def parse_lines(text: str) -> list[dict]:
    """Its results, from between whatever else it prints."""
    return [json.loads(line) for line in text.splitlines() if line.startswith('{"n_kv_max"')]


def samples_of(short: list[dict], long: list[dict]) -> Samples:
    singles = [line for line in short if line["pl"] == 1]
    batches = [line for line in short if line["pl"] == works.STREAMS]
    generated = works.STREAMS * works.OUTPUT_TOKENS
    return {
        "decode1_tokens_per_s": [line["tg"] / line["t_tg"] for line in singles],
        "ttft512_ms": [line["t_pp"] * 1e3 for line in singles],
        "ttft4096_ms": [line["t_pp"] * 1e3 for line in long],
        "batch16_tokens_per_s": [generated / (line["t_pp"] + line["t_tg"]) for line in batches],
    }
