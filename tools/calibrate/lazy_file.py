"""skim_lazy.json: what the daemon reads beside a model."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from calibrate.choose import LEAST_RATIO, Cuts, Scores, quantiles

NAME = "skim_lazy.json"
VERSION = 1


@dataclass(frozen=True)
class Profile:
    margin: float  # keeps so many times the share that is needed
    revival_budget: int  # tokens per cut and step


# Name -> what scouts keep; above them these profiles cut as `fast` does.
SCOUT_PROFILES = {"scout-safe": 0.65, "scout-fast": 0.5}
# Prompts hold more than the one thing that is asked for, so even `aggressive` keeps more than 90 %
# of the items need; ./run eval lazy tells what is lost all the same.
PROFILES = {"safe": Profile(4, 8), "fast": Profile(2, 8), "aggressive": Profile(1.25, 32)}


def contents(layers: int, cuts: Cuts, also: Sequence[int] = ()) -> dict:
    """What the daemon reads (engine/lazy_config.h): layers and query heads count from 0, and a
    head's layer lies in the segment below its boundary. Nothing is cut at the boundaries in
    `also`: they are there for other profiles and for requests with ratios of their own."""
    both = (cuts.first, cuts.second)
    boundaries = sorted({*also, *(cut.boundary for cut in both)})
    heads = {cut.boundary: [list(head) for head in cut.heads] for cut in both}
    return {
        "version": VERSION,
        "layers": layers,
        "boundaries": boundaries,
        "score_heads": [heads.get(boundary, []) for boundary in boundaries],
        "profiles": {
            name: {
                "keep": spread(
                    boundaries,
                    [cut.boundary for cut in both],
                    keep_ratios([profile.margin * cut.ratio for cut in both]),
                ),
                "revival_budget": profile.revival_budget,
            }
            for name, profile in PROFILES.items()
        },
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
                "decode": "phantom",
            }
            for name, most in SCOUT_PROFILES.items()
        }
    return value


def spread(boundaries: list[int], cuts: list[int], keep: list[float]) -> list[float]:
    """What is kept above each boundary, from what the cuts among them keep."""
    return [
        min([1.0, *(share for cut, share in zip(cuts, keep, strict=True) if cut <= boundary)])
        for boundary in boundaries
    ]


def keep_ratios(ratios: list[float]) -> list[float]:
    """Rounded, in (0, 1], and no later cut keeps more than one before it."""
    result: list[float] = []
    for ratio in ratios:
        most = result[-1] if result else 1.0
        result.append(round(min(most, max(LEAST_RATIO, ratio)), 3))
    return result


def write(path: Path, value: dict) -> None:
    """As a whole or not at all."""
    scratch = path.with_suffix(".partial")
    scratch.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    os.replace(scratch, path)


def held_out(cuts: Cuts, scores: Scores) -> dict[str, tuple[float, ...]]:
    """Name of a scoring -> keep ratios that 50, 75 and 90 % of the items need."""
    table = {}
    for cut in (cuts.first, cuts.second):
        where = f"cut at {cut.boundary}"
        table[f"{where}, mean of layer {cut.boundary - 1}"] = quantiles(
            scores.mean_ratios(cut.boundary - 1)
        )
        table[f"{where}, {len(cut.heads)} chosen heads"] = quantiles(scores.ratios(cut.heads))
    return table
