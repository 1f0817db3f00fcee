"""./run eval weights: what weight and KV formats cost, against bf16 on the same texts.

Teacher-forced: pieces of long prose, of which the second half is scored, so that every scored
token has a long context: perplexity, and how often the most probable token is that of bf16.
Free-running: greedy replies, and how many of their tokens agree before the first difference.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from eval import chunks, intervals
from eval.calls import Call, Generator, Reply
from eval.intervals import Estimate
from eval.store import Job, Store, Value, key_of, run_all


@dataclass(frozen=True)
class Setting:
    weights: str
    kv: str

    def __str__(self) -> str:
        return f"{self.weights} weights, {self.kv} KV"


BASE = Setting("bf16", "bf16")


@dataclass(frozen=True)
class Plan:
    context: int = 1024  # tokens of a scored piece
    pieces: int = 64  # of each kind of text
    prompt: int = 256
    reply: int = 128
    replies: int = 24  # of each kind of text
    in_flight: int = 4
    seed: int = 1


@dataclass(frozen=True)
class Material:
    scored: list[tuple[int, ...]]
    prompts: list[tuple[int, ...]]


@dataclass
class Measured:
    """Of one setting; arrays over the pieces, or over the replies."""

    nll: np.ndarray  # summed over a piece's scored tokens
    tokens: np.ndarray
    top: np.ndarray  # [pieces, scored tokens]: the most probable token's id
    replies: list[list[int]]


def gather(
    documents: dict[str, Sequence[tuple[str, str]]],
    plan: Plan,
    tokenize: Callable[[str], list[int]],
) -> Material:
    scored: list[tuple[int, ...]] = []
    prompts: list[tuple[int, ...]] = []
    for texts in documents.values():
        scored += chunks.draw(texts, plan.context, plan.pieces, tokenize, plan.seed)
        prompts += chunks.draw(texts, plan.prompt, plan.replies, tokenize, plan.seed + 1)
    return Material(scored, prompts)


def second_half(reply: Reply) -> Value:
    """What is kept of a scored piece. The first prompt token has no score."""
    first = (len(reply.prompt) + 1) // 2 - 1
    scored = reply.prompt[first:]
    return {
        "nll": -sum(token.logprob for token in scored),
        "top": [token.top[0][0] for token in scored],
    }


def measure(
    client: Generator,
    setting: Setting,
    material: Material,
    plan: Plan,
    store: Store,
    daemon: object,
) -> Measured:
    def score(piece: tuple[int, ...]) -> Job:
        call = Call(piece, logprobs=1, prompt_logprobs=True, weights=setting.weights)
        return key_of("score", daemon, call.facts()), lambda: second_half(client.generate(call))

    def answer(prompt: tuple[int, ...]) -> Job:
        call = Call(prompt, max_tokens=plan.reply, weights=setting.weights)
        return key_of("reply", daemon, call.facts()), lambda: {
            "tokens": client.generate(call).tokens
        }

    scored = run_all(list(map(score, material.scored)), store, plan.in_flight, f"{setting}: texts")
    replies = run_all(
        list(map(answer, material.prompts)), store, plan.in_flight, f"{setting}: replies"
    )
    return Measured(
        nll=np.array([value["nll"] for value in scored]),
        tokens=np.array([len(value["top"]) for value in scored]),
        top=np.array([value["top"] for value in scored]),
        replies=[value["tokens"] for value in replies],
    )


@dataclass(frozen=True)
class Comparison:
    perplexity: float
    increase: Estimate  # of the perplexity, in percent of that of bf16
    agreement: Estimate  # scored positions with bf16's most probable token, percent
    agreed_tokens: Estimate  # of a reply, before the first difference
    whole_replies: Estimate  # equal to the end, percent


def compare(base: Measured, other: Measured) -> Comparison:
    agreed = [common_prefix(a, b) for a, b in zip(base.replies, other.replies, strict=True)]
    whole = [a == b for a, b in zip(base.replies, other.replies, strict=True)]
    return Comparison(
        perplexity=float(np.exp(other.nll.sum() / other.tokens.sum())),
        increase=intervals.perplexity_increase(base.nll, other.nll, base.tokens),
        agreement=intervals.mean(100 * (base.top == other.top).mean(axis=1)),
        agreed_tokens=intervals.mean(np.array(agreed)),
        whole_replies=intervals.mean(100.0 * np.array(whole)),
    )


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    for position, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return position
    return min(len(a), len(b))


def daemons(
    weights: list[str], kv_formats: list[str], running: bool, skipped: dict[Setting, str]
) -> list[tuple[str, list[str]]]:
    """(KV format, weight formats) of each daemon to ask, that of the base first."""
    others = [kv for kv in kv_formats if kv != BASE.kv]
    formats_of_base = [BASE.weights, *(w for w in weights if w != BASE.weights)]
    if running:
        for kv in others:
            skipped[Setting(BASE.weights, kv)] = "a server that runs already has one KV format"
        others = []
    return [(BASE.kv, formats_of_base), *((kv, [BASE.weights]) for kv in others)]


def daemon_arguments(weights: list[str], kv: str) -> list[str]:
    arguments = [] if weights == [BASE.weights] else ["--weights", ",".join(weights)]
    return arguments if kv == BASE.kv else [*arguments, "--kv-format", kv]
