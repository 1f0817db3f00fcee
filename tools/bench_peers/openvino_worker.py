"""One visit to OpenVINO GenAI, in its environment:
openvino_worker MODEL THREADS SEED VOCABULARY"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openvino
import openvino_genai

from bench_peers.worker import run_worker
from bench_peers.works import CONTEXT_TOKENS, Prompts, Samples, Stream, visit

KV_CACHE_GIB = 2


def main() -> Samples:
    model, threads, seed, vocabulary = Path(sys.argv[1]), *map(int, sys.argv[2:5])
    pipeline = open_pipeline(model, threads)
    return visit(lambda prompts, tokens: run(pipeline, prompts, tokens), Prompts(seed, vocabulary))


def open_pipeline(model: Path, threads: int) -> openvino_genai.ContinuousBatchingPipeline:
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = KV_CACHE_GIB
    scheduler.dynamic_split_fuse = True
    scheduler.enable_prefix_caching = False
    scheduler.max_num_batched_tokens = CONTEXT_TOKENS
    properties = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "bf16",
        "KV_CACHE_PRECISION": "bf16",
    }
    return openvino_genai.ContinuousBatchingPipeline(model, scheduler, "CPU", properties)


def run(pipeline, prompts: Sequence[list[int]], output_tokens: int) -> Sequence[Stream]:
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens = output_tokens
    config.ignore_eos = True
    config.do_sample = False
    inputs = [openvino.Tensor(np.array([ids], dtype=np.int64)) for ids in prompts]
    start = time.perf_counter()
    handles = [pipeline.add_request(i, ids, config) for i, ids in enumerate(inputs)]
    first: dict[int, float] = {}
    last: dict[int, float] = {}
    counts = [0] * len(handles)
    while pipeline.has_non_finished_requests():
        pipeline.step()
        now = time.perf_counter() - start
        for i, handle in enumerate(handles):
            while handle.can_read():
                counts[i] += sum(len(output.generated_ids) for output in handle.read().values())
                first.setdefault(i, now)
                last[i] = now
    return [Stream(first[i], last[i], len(prompts[i]), counts[i]) for i in sorted(first)]


if __name__ == "__main__":
    run_worker(main)
