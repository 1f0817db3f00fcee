"""Any server of the OpenAI completions API that somebody else keeps running.

The API has no token times; each streamed event counts as the arrival of its text. Prompts are sent
as token ids and `ignore_eos` is asked for: an extension that vLLM, SGLang and llama.cpp's server
know. Counts are those of the server's `usage`; a server that did other work is refused.
"""

import http.client
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from bench_peers.errors import BenchError
from bench_peers.peer import Setup
from bench_peers.works import STREAMS, Prompts, Samples, Stream, visit

CALL_LIMIT_S = 300


class OpenAiPeer:
    def __init__(self, setup: Setup, url: str, name: str, weights: str, model: str | None) -> None:
        self.name = name
        self.remark = f"{url}, over the OpenAI completions API, set up by whoever started it"
        self._setup = setup
        self._base = url.rstrip("/").removesuffix("/v1") + "/v1"
        self._weights = weights
        self._model = model

    def weights(self) -> tuple[str, ...]:
        return (self._weights,)

    def prepare(self, weights: str) -> str:
        if self._model is None:
            request = urllib.request.Request(self._base + "/models")
            try:
                with self._open(request) as response:
                    self._model = json.load(response)["data"][0]["id"]
            except (ValueError, LookupError, TypeError) as error:
                raise BenchError(f"{request.full_url} lists no model: {error}") from error
        return f"(model {self._model})"

    def visit(self, weights: str, seed: int) -> Samples:
        with ThreadPoolExecutor(STREAMS) as pool:

            def run(prompts: Sequence[list[int]], output_tokens: int) -> list[Stream]:
                # All connections are made by threads that wait for each other.
                barrier = threading.Barrier(len(prompts))
                jobs = [pool.submit(self._stream, p, output_tokens, barrier) for p in prompts]
                return [job.result() for job in jobs]

            return visit(run, Prompts(seed, self._setup.vocabulary))

    def _stream(self, prompt: list[int], tokens: int, barrier: threading.Barrier) -> Stream:
        body = {
            **{"model": self._model, "prompt": prompt, "max_tokens": tokens, "temperature": 0},
            **{"ignore_eos": True, "stream": True, "stream_options": {"include_usage": True}},
        }
        request = urllib.request.Request(
            self._base + "/completions",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        barrier.wait(CALL_LIMIT_S)
        start = time.perf_counter()
        try:
            with self._open(request) as response:
                return read_stream((line, time.perf_counter() - start) for line in response)
        except (OSError, http.client.HTTPException, ValueError, LookupError) as error:
            raise BenchError(f"{request.full_url} broke a stream off: {error!r}") from error

    def _open(self, request: urllib.request.Request):
        try:
            return urllib.request.urlopen(request, timeout=CALL_LIMIT_S)
        except urllib.error.HTTPError as error:
            said = error.read(300).decode(errors="replace")
            raise BenchError(f"{request.full_url} answered {error.code}: {said}") from error
        except OSError as error:
            raise BenchError(f"cannot reach {request.full_url}: {error}") from error


def read_stream(lines: Iterable[tuple[bytes, float]]) -> Stream:
    """Of server-sent events, each line with its time of arrival."""
    times: list[float] = []
    usage: dict | None = None
    for event, arrived in _events(lines):
        if "error" in event:
            raise BenchError(f"the server ended a stream: {event['error']}")
        usage = event.get("usage") or usage
        # Text may be empty while a character is incomplete; the token is there all the same.
        if event.get("choices"):
            times.append(arrived)
    if usage is None or not times:
        raise BenchError("the server streamed no tokens, or did not tell their number in `usage`")
    return Stream(times[0], times[-1], usage["prompt_tokens"], usage["completion_tokens"])


def _events(lines: Iterable[tuple[bytes, float]]) -> Iterator[tuple[dict, float]]:
    for line, arrived in lines:
        data = line.strip().removeprefix(b"data:").strip()
        if line.startswith(b"data:") and data != b"[DONE]":
            yield json.loads(data), arrived
