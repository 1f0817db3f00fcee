"""./run eval lazy: what pruning the prompt costs in accuracy, and what it saves in time.

Every item is done by every setting: a reply is right or wrong. Only tasks that the exact model
gets right in at least 60 % of the items count. Continuations are scored under the exact model's
distributions instead. Replies do not depend on what else runs, so several are asked for at once;
times do, so afterwards some prompts of each length are timed to their first token, alone.
"""

import dataclasses
import itertools
import random
from collections.abc import Callable, Sequence
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
DEFAULT_SETTINGS = (
    *("exact", "safe", "fast", "aggressive", "paper", "phantom", "scout-safe", "scout-fast"),
    *("fast-static", "random-50"),
)


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


def timed(items: Sequence[Item], count: int) -> list[Item]:
    """The first `count` of each length, tasks taking turns."""
    chosen = []
    for length in sorted({item.length for item in items}):
        of_task: dict[str, list[Item]] = {}
        for item in items:
            if item.length == length:
                of_task.setdefault(item.task, []).append(item)
        turns = itertools.zip_longest(*of_task.values())
        chosen += [item for turn in turns for item in turn if item is not None][:count]
    return chosen


def call_of(item: Item, setting: Setting, seed: int) -> Call:
    is_scored = item.task == CONTINUATION
    return Call(
        prompt=setting.prompt(item, seed),
        max_tokens=item.reply_tokens,
        logprobs=TOP if is_scored else None,
        weights=setting.weights,
        prefill=setting.prefill,
        forced=item.answer if is_scored else (),
        # Not with exact ones, whose blocks would make the server answer exactly.
        shares="pruned" if setting.prefill else None,
    )


def kept_of(reply: Reply) -> Value:
    """What is kept of a reply on disk."""
    return {
        "tokens": reply.tokens,
        "logprobs": [scored.logprob for scored in reply.scored],
        "top": [scored.top for scored in reply.scored],
        "final": reply.final,
    }


def was_pruned(value: Value) -> bool:
    return value["final"].get("prefill", {}).get("mode") == "MODE_LAZY"


def run_items(
    client: Generator,
    items: Sequence[Item],
    settings: Sequence[Setting],
    seed: int,
    store: Store,
    daemon: object,
    in_flight: int = 1,
) -> dict[str, list[Value]]:
    """By setting, in the order of the items. Settings take turns with a few items at a time:
    those that cut at the same layer find there what another has just computed."""

    def job(item: Item, setting: Setting) -> Job:
        call = call_of(item, setting, seed)
        return key_of("lazy", daemon, call.facts()), lambda: kept_of(client.generate(call))

    return _run(job, items, settings, store, in_flight, "items x settings")


def run_times(
    client: Generator,
    items: Sequence[Item],
    settings: Sequence[Setting],
    seed: int,
    store: Store,
    daemon: object,
) -> dict[str, list[float]]:
    """Milliseconds to the first token by setting, in the order of the items, one request at a
    time. The settings take turns, so that a machine which slows down favours none of them."""

    def job(item: Item, setting: Setting) -> Job:
        call = Call(setting.prompt(item, seed), weights=setting.weights, prefill=setting.prefill)
        return key_of("lazy times", daemon, call.facts()), lambda: {
            "ms": client.generate(call).final["timings"]["time_to_first_token_ms"]
        }

    values = _run(job, items, settings, store, 1, "prompts timed x settings")
    return {name: [value["ms"] for value in of] for name, of in values.items()}


def _run(
    job: Callable[[Item, Setting], Job],
    items: Sequence[Item],
    settings: Sequence[Setting],
    store: Store,
    in_flight: int,
    label: str,
) -> dict[str, list[Value]]:
    jobs = [
        job(item, setting)
        for few in (items[i : i + in_flight] for i in range(0, len(items), in_flight))
        for setting in settings
        for item in few
    ]
    run_all(jobs, store, in_flight, label)
    return {s.name: [store.get(job(item, s)[0]) for item in items] for s in settings}
