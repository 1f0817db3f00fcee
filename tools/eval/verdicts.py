"""From replies to figures: losses, gains in time, fidelity."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from eval import intervals
from eval.intervals import Estimate
from eval.lazy import CONTINUATION, was_pruned
from eval.prompts import Item
from eval.store import Value

SOLVED_SHARE = 0.6

Top = Sequence[tuple[int, float]]


@dataclass
class TaskVerdict:
    exact: float  # right replies of the exact model, percent
    right: Estimate  # of this setting, percent
    loss: Estimate  # points
    lost: Estimate | None  # of what the exact model gets right, wrong now, percent
    counts: bool


@dataclass
class Fidelity:
    """Of continuations, against the exact model, over the same tokens."""

    first_token: Estimate  # same most probable first token, percent
    any_token: Estimate  # the same for all tokens, percent
    divergence: Estimate  # KL(exact || setting), nats a token; a lower bound, see kl
    nll_difference: Estimate  # nats a token; above 0: the text became less probable


@dataclass
class Verdict:
    tasks: dict[str, TaskVerdict] = field(default_factory=dict)
    overall: TaskVerdict | None = None  # over the items of all tasks that count
    by_length: dict[int, TaskVerdict] = field(default_factory=dict)  # of those items
    by_layout: dict[str, TaskVerdict] = field(default_factory=dict)
    gains: dict[int, Estimate] = field(default_factory=dict)  # length -> TTFT exact / setting
    fidelity: Fidelity | None = None
    pruned: float = 0  # items whose prompt was pruned, percent; the others were too short


def judge(items: Sequence[Item], exact: Sequence[Value], values: Sequence[Value]) -> Verdict:
    verdict = Verdict(pruned=100 * float(np.mean([was_pruned(value) for value in values])))
    counted: list[tuple[np.ndarray, np.ndarray, list[Item]]] = []
    for task in dict.fromkeys(item.task for item in items):
        chosen = [i for i, item in enumerate(items) if item.task == task]
        if task == CONTINUATION:
            verdict.fidelity = fidelity([(exact[i], values[i]) for i in chosen])
            continue
        before = np.array([items[i].is_right(exact[i]["tokens"]) for i in chosen], dtype=float)
        after = np.array([items[i].is_right(values[i]["tokens"]) for i in chosen], dtype=float)
        verdict.tasks[task] = of_task(before, after)
        if verdict.tasks[task].counts:
            counted.append((before, after, [items[i] for i in chosen]))
    if counted:
        before, after, of = (np.concatenate(parts) for parts in zip(*counted, strict=True))
        verdict.overall = of_task(before, after)
        for name, parts in (("length", verdict.by_length), ("layout", verdict.by_layout)):
            values_of = np.array([getattr(item, name) for item in of])
            for value in sorted({getattr(item, name) for item in of}):
                those = values_of == value
                parts[value] = of_task(before[those], after[those])
    return verdict


def gains(
    items: Sequence[Item], exact: Sequence[float], times: Sequence[float]
) -> dict[int, Estimate]:
    """Of timed prompts: by length, time of the exact model / of the setting."""

    def of_length(length: int) -> Estimate:
        chosen = [i for i, item in enumerate(items) if item.length == length]
        return intervals.bootstrap(
            [np.array([of[i] for i in chosen]) for of in (exact, times)],
            lambda ours, theirs: ours.sum(axis=1) / theirs.sum(axis=1),
        )

    return {length: of_length(length) for length in sorted({item.length for item in items})}


def of_task(before: np.ndarray, after: np.ndarray) -> TaskVerdict:
    solved = before == 1
    return TaskVerdict(
        exact=100 * float(before.mean()),
        right=intervals.mean(100 * after),
        loss=intervals.mean(100 * (before - after)),
        lost=intervals.mean(100 * (1 - after[solved])) if solved.any() else None,
        counts=bool(before.mean() >= SOLVED_SHARE),
    )


def fidelity(pairs: Sequence[tuple[Value, Value]]) -> Fidelity:
    first, same, divergence, nll = [], [], [], []
    for exact, value in pairs:
        tops = list(zip(exact["top"], value["top"], strict=True))
        agreed = [ours[0][0] == theirs[0][0] for ours, theirs in tops]
        first.append(100.0 * agreed[0])
        same.append(100 * float(np.mean(agreed)))
        divergence.append(float(np.mean([kl(ours, theirs) for ours, theirs in tops])))
        nll.append(float(np.mean(exact["logprobs"]) - np.mean(value["logprobs"])))
    return Fidelity(*(intervals.mean(np.array(column)) for column in (first, same, divergence, nll)))


def kl(ours: Top, theirs: Top) -> float:
    """KL(ours || theirs) of distributions of which only the best tokens are known. What is not
    among the best of both is one outcome, which can only make it smaller."""
    listed = dict(theirs)
    total, mass, other_mass = 0.0, 0.0, 0.0
    for token, logprob in ours:
        if token not in listed:
            continue
        total += math.exp(logprob) * (logprob - listed[token])
        mass += math.exp(logprob)
        other_mass += math.exp(listed[token])
    rest, other_rest = (max(1 - known, 1e-9) for known in (mass, other_mass))
    return max(0.0, total + rest * math.log(rest / other_rest))
