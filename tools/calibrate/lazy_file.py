"""skim_lazy.json: what the daemon reads beside a model."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from calibrate.needed import Head
from calibrate.search import Cuts

NAME = "skim_lazy.json"
VERSION = 1
# Name -> what scouts keep; above them these profiles cut as `fast` does. What the early cut misses
# comes back late.
SCOUT_PROFILES = {"scout-safe": 0.5, "scout-fast": 0.35}
SCOUT_REVIVAL_BUDGET = 2


def contents(
    layers: int,
    boundaries: Sequence[int],
    heads: dict[int, list[Head]],
    profiles: dict[str, Cuts],
) -> dict:
    """What the daemon reads (engine/lazy_config.h): layers and query heads count from 0, and a
    head's layer lies in the segment below its boundary. `heads` are missing where the mean
    scores."""
    return {
        "version": VERSION,
        "layers": layers,
        "boundaries": list(boundaries),
        "score_heads": [[list(head) for head in heads.get(b, [])] for b in boundaries],
        "profiles": {name: {"keep": spread(boundaries, cuts)} for name, cuts in profiles.items()},
    }


def with_scouts(
    before: dict, boundary: int, window: int, heads: Sequence[tuple[int, int]]
) -> dict:
    """The same settings with scouts at `boundary`, which becomes one if it is none. Profiles go on
    cutting where they did; two new ones cut there."""
    value = dict(before)
    old = before["boundaries"]
    value["boundaries"] = boundaries = sorted({*old, boundary})

    def moved(values: list, new: object) -> list:
        return [values[old.index(b)] if b in old else new for b in boundaries]

    if "score_heads" in before:
        # Those of the boundary above are in its segment, which begins here now.
        value["score_heads"] = [
            [head for head in of if b <= boundary or head[0] >= boundary]
            for b, of in zip(boundaries, moved(before["score_heads"], []), strict=True)
        ]
    value["scouts"] = moved(before.get("scouts", [None] * len(old)), None)
    value["scouts"][boundaries.index(boundary)] = {
        "window": window,
        "heads": [list(head) for head in heads],
    }
    if "profiles" in before:
        below = [i for i, b in enumerate(old) if b < boundary]
        value["profiles"] = {
            name: profile
            | {"keep": moved(profile["keep"], profile["keep"][below[-1]] if below else 1.0)}
            for name, profile in before["profiles"].items()
            if name not in SCOUT_PROFILES
        }
        above = value["profiles"].get("fast", {"keep": [1.0] * len(boundaries)})["keep"]
        value["profiles"] |= {
            name: {
                "keep": [
                    min(share, most) if b >= boundary else 1.0
                    for b, share in zip(boundaries, above, strict=True)
                ],
                "decode": "late",
                "revival_budget": SCOUT_REVIVAL_BUDGET,
            }
            for name, most in SCOUT_PROFILES.items()
        }
    return value


def spread(boundaries: Sequence[int], cuts: Cuts) -> list[float]:
    """What is kept above each boundary, from what the cuts among them keep."""
    return [
        min([1.0, *(share for cut, share in cuts if cut <= boundary)]) for boundary in boundaries
    ]


def write(path: Path, value: dict) -> None:
    """As a whole or not at all."""
    scratch = path.with_suffix(".partial")
    scratch.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    os.replace(scratch, path)
