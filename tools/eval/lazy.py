"""./run eval lazy: what pruning the prompt costs in accuracy, and what it saves in time.

Every item is done by every setting, one request at a time: a reply is right or wrong, and the
time to the first token is the daemon's. Only tasks that the exact model gets right in at least
60 % of the items count. Continuations are scored under the exact model's distributions instead.
"""

import dataclasses
import random
from collections.abc import Sequence
from dataclasses import dataclass

from eval.calls import Call, Generator, Reply
from eval.prompts import Item
from eval.store import Job, Store, Value, key_of, run_all

EXACT = "exact"
CONTINUATION = "continuation"
TOP = 20
# A random drop spares the first tokens, as every server's pruning does.
SINKS = 4


@dataclass(frozen=True)
class Setting:
    name: str
    prefill: dict | None = None  # PrefillPolicy as JSON; None: exact
    # Baseline made here and not by the server: so large a share of the context's tokens, drawn at
    # random, is all that is sent. Unlike pruned tokens these have no positions and no layer.
    random_keep: float = 1
    weights: str | None = None  # None: the server's default

    def prompt(self, item: Item, seed: int) -> tuple[int, ...]:
        if self.random_keep == 1:
            return item.prompt
        begin, end = max(SINKS, item.context[0]), item.context[1]
        rng = random.Random(f"{seed} {item.prompt}")
        kept = sorted(rng.sample(range(begin, end), round((end - begin) * self.random_keep)))
        return (*item.prompt[:begin], *(item.prompt[i] for i in kept), *item.prompt[end:])


def profile(name: str, **more: object) -> dict:
    return {"lazy": {"profile": name, **more}}


SETTINGS = {
    setting.name: setting
    for setting in (
        Setting(EXACT),
        Setting("safe", profile("safe")),
        Setting("fast", profile("fast")),
        Setting("aggressive", profile("aggressive")),
        Setting("paper", profile("paper")),
        Setting("fast-static", profile("fast", decode_mode="DECODE_MODE_STATIC")),
        Setting("fast-strict", profile("fast", decode_mode="DECODE_MODE_STRICT")),
        Setting("scout-safe", profile("scout-safe")),
        Setting("scout-fast", profile("scout-fast")),
        Setting("phantom", profile("phantom")),
        Setting("random-70", random_keep=0.7),
        Setting("random-50", random_keep=0.5),
    )
}
DEFAULT_SETTINGS = ("exact", "safe", "fast", "aggressive", "paper", "fast-static", "random-50")


def offered(settings: Sequence[Setting], profiles: Sequence[str]) -> list[Setting]:
    """Without those that name a profile which the server does not have."""

    def profile_of(setting: Setting) -> str | None:
        return (setting.prefill or {}).get("lazy", {}).get("profile")

    return [s for s in settings if profile_of(s) is None or profile_of(s) in profiles]


def with_weights(settings: Sequence[Setting], formats: Sequence[str]) -> list[Setting]:
    """Each in every format; those of the first keep their names, the others tell the format."""
    return [
        dataclasses.replace(
            setting,
            name=setting.name if weights == formats[0] else f"{setting.name} {weights}",
            weights=weights,
        )
        for weights in formats
        for setting in settings
    ]


def call_of(item: Item, setting: Setting, seed: int) -> Call:
    is_scored = item.task == CONTINUATION
    return Call(
        prompt=setting.prompt(item, seed),
        max_tokens=item.reply_tokens,
        logprobs=TOP if is_scored else None,
        weights=setting.weights,
        prefill=setting.prefill,
        forced=item.answer if is_scored else (),
    )


def kept_of(reply: Reply) -> Value:
    """What is kept of a reply on disk."""
    return {
        "tokens": reply.tokens,
        "logprobs": [scored.logprob for scored in reply.scored],
        "top": [scored.top for scored in reply.scored],
        "final": reply.final,
    }


def ttft_ms(value: Value) -> float:
    return value["final"]["timings"]["time_to_first_token_ms"]


def was_pruned(value: Value) -> bool:
    return value["final"].get("prefill", {}).get("mode") == "MODE_LAZY"


def run_items(
    client: Generator,
    items: Sequence[Item],
    settings: Sequence[Setting],
    seed: int,
    store: Store,
    daemon: object,
) -> dict[str, list[Value]]:
    """By setting, in the order of the items. The settings take turns, item by item, so that a
    machine which slows down favours none of them."""

    def job(item: Item, setting: Setting) -> Job:
        call = call_of(item, setting, seed)
        return key_of("lazy", daemon, call.facts()), lambda: kept_of(client.generate(call))

    jobs = [job(item, setting) for item in items for setting in settings]
    values = run_all(jobs, store, in_flight=1, label="items x settings")
    return {s.name: values[i :: len(settings)] for i, s in enumerate(settings)}
