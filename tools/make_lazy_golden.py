#!/usr/bin/env python3
"""Writes tests/golden/tiny-llama3.lazy.json: what lazy_reference.py says of three policies, for
the tests of prompt pruning. The seeds of the prompts were searched for: with them no choice and
no greedy token is a near tie, which bfloat16 could decide either way."""

import json

import numpy as np

from golden_checkpoints import GOLDEN
from hf_directory import run_main
from lazy_reference import Model, Policy, Sequence, Step

NAME = "tiny-llama3"
PROMPT_TOKENS = 40
DECODE_STEPS = 32
# Well above what another order of summation changes.
LEAST_MARGIN = 1e-3
LEAST_LOGIT_GAP = 0.05

CASES = {
    "strict": (2318, Policy([1, 2], [0.5, 0.25], decode="strict", pool_radius=0, budget=64)),
    "lazy": (
        0,
        Policy(
            [1, 2], [0.4, 0.2], decode="lazy", budget=2, window=3, heads=[[(0, 1)], [(1, 0), (1, 1)]]
        ),
    ),
    "static": (16, Policy([2], [0.3], decode="static")),
}


def main() -> None:
    model = Model(GOLDEN / NAME)
    cases = [run(model, name, seed, policy) for name, (seed, policy) in CASES.items()]
    (GOLDEN / f"{NAME}.lazy.json").write_text(json.dumps({"cases": cases}) + "\n")


def run(model: Model, name: str, seed: int, policy: Policy) -> dict:
    # The last ids are special tokens.
    ids = np.random.default_rng(seed).integers(0, 256, PROMPT_TOKENS)
    sequence = Sequence(model, policy, [int(t) for t in ids])
    steps = [sequence.prefill()]
    for _ in range(DECODE_STEPS):
        steps.append(sequence.decode(greedy(steps[-1])))
    assert sequence.margin > LEAST_MARGIN, f"{name}: margin {sequence.margin}"
    return {
        "name": name,
        "boundaries": policy.boundaries,
        "keep": policy.keep,
        "min_keep": policy.min_keep,
        "sinks": policy.sinks,
        "window": policy.window,
        "pool_radius": policy.pool_radius,
        "decode": policy.decode,
        "budget": policy.budget,
        "heads": policy.heads or [],
        "prompt": sequence.tokens[:PROMPT_TOKENS],
        "steps": [describe(step) for step in steps],
    }


def greedy(step: Step) -> int:
    best = np.sort(step.logits)
    assert best[-1] - best[-2] > LEAST_LOGIT_GAP
    return int(step.logits.argmax())


def describe(step: Step) -> dict:
    return {
        "chosen": step.chosen,
        "revived": step.revived,
        "token": greedy(step),
        "logits": [round(float(x), 4) for x in step.logits],
    }


if __name__ == "__main__":
    run_main(main)
