#!/usr/bin/env python3
"""Writes tests/golden/tiny-llama3.lazy.json: what lazy_reference.py says of some policies, for
the tests of prompt pruning; before that, what they predict keys and values with. The seeds of the prompts were searched for: with them no choice and
no greedy token is a near tie, which bfloat16 could decide either way."""

import json

import numpy as np

from calibrate import predictor_file
from calibrate.fingerprint import made_for
from calibrate.predictors import Map, Maps, Products, inputs_of
from golden_checkpoints import GOLDEN
from hf_directory import run_main
from lazy_reference import PREDICTORS, Model, Policy, Sequence, Step

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
    "phantom": (2, Policy([1, 2], [0.6, 0.3], decode="phantom", window=2)),
    "phantom by heads": (
        16,
        Policy([1, 2], [0.4, 0.25], decode="phantom", heads=[[(0, 1)], [(1, 0), (1, 1)]]),
    ),
    "scouts": (1, Policy([1, 2], [0.5, 0.25], decode="static", scouts=[(4, [(1, 0), (2, 1)]), None])),
    "scouts, revival above": (
        5,
        Policy([1, 2], [0.6, 0.3], decode="lazy", budget=2, scouts=[(3, [(2, 0), (1, 1)]), None]),
    ),
    "scouts and phantoms": (
        0,
        Policy([1, 2], [0.6, 0.3], decode="phantom", scouts=[(3, [(1, 1)]), (2, [(2, 0), (2, 1)])]),
    ),
    "late": (0, Policy([1, 2], [0.4, 0.2], decode="late", budget=2)),
    "late, by scouts": (
        11,
        Policy([1, 2], [0.5, 0.25], decode="late", budget=1, scouts=[(3, [(1, 1), (2, 0)]), None]),
    ),
    "a look back": (5, Policy([1, 2], [0.4, 0.2], decode="late", budget=2, window=4, look_back=4)),
    "a look back by scouts": (
        20,
        Policy(
            [1, 2],
            [0.5, 0.25],
            decode="late",
            budget=1,
            look_back=3,
            scouts=[(3, [(1, 1), (2, 0)]), None],
        ),
    ),
    "scouts above a cut": (
        4,
        Policy([1, 2], [0.6, 0.3], decode="static", window=2, scouts=[None, (5, [(2, 1)])]),
    ),
    "scouts to the middle of a segment": (
        8,
        Policy([1], [0.4], decode="strict", scouts=[(16, [(1, 0), (1, 1)])]),
    ),
}
BOUNDARIES = (1, 2)
FITTED_TOKENS = 400


def main() -> None:
    directory = GOLDEN / NAME
    maps = fit(Model(directory))
    predictor_file.write(directory / PREDICTORS, maps, made_for(directory))
    model = Model(directory)
    cases = [run(model, name, seed, policy) for name, (seed, policy) in CASES.items()]
    (GOLDEN / f"{NAME}.lazy.json").write_text(json.dumps({"cases": cases}) + "\n")


def fit(model: Model) -> Maps:
    """To random text; the tool's own arithmetic on what the reference computes."""
    ids = [int(t) for t in np.random.default_rng(1).integers(0, 256, FITTED_TOKENS)]
    rows, positions = list(range(FITTED_TOKENS)), np.arange(FITTED_TOKENS)
    sequence = Sequence(model, Policy([], []), ids)
    x = model.embed(ids)
    entering = []
    for l in range(model.layers):
        entering.append(inputs_of(x, model.config["rms_norm_eps"]))
        x, _, _ = sequence.layer(l, x, rows, None)
    maps = {}
    for boundary in BOUNDARIES:
        products = Products(model.config["hidden_size"] + 1)
        products.add(entering[boundary])
        for l in range(boundary, model.layers):
            keys = model.rotate(np.stack([sequence.keys[l][t] for t in rows]), -positions)
            values = np.stack([sequence.values[l][t] for t in rows])
            targets = np.concatenate([keys, values], axis=1).reshape(FITTED_TOKENS, -1)
            solved = products.solve(entering[boundary].T @ targets)
            none = np.zeros(model.kv_heads)
            maps[boundary, l] = Map(solved[:, :-1], solved[:, -1], none, none)
    return maps


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
        "look_back": policy.look_back,
        "heads": policy.heads or [],
        "scouts": [
            {"window": s[0], "heads": s[1]} if s else None for s in policy.scouts or []
        ],
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
        "stages_run": step.stages_run,
        "looks": [{"chosen": look.chosen, "revived": look.revived} for look in step.looks],
        "token": greedy(step),
        "logits": [round(float(x), 4) for x in step.logits],
    }


if __name__ == "__main__":
    run_main(main)
