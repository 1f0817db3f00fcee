"""./run calibrate: where to cut, what goes on there, who scores."""

import argparse
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from calibrate import choose, lazy_file, replies, search
from calibrate.forward import Shape
from calibrate.model_files import read_config
from calibrate.needed import Head
from calibrate.samples import halves, look, make_items
from calibrate.search import Found
from eval.errors import EvalError
from eval.progress import say
from eval.prompts import Item
from eval.settings import stubs
from eval.store import Store
from eval.texts import Texts

# Name of a profile -> the share of right replies' tokens that it may lose, of any task.
TOLERANCES = {"safe": 0.03, "fast": 0.08, "aggressive": 0.2}
ITEMS = 192
# Their attention is held in memory, of all layers.
MOST_LOOKED_AT = 64

Heads = dict[int, list[Head]]  # by boundary
Table = dict[str, tuple[float, ...]]  # see choose.held_out


def run(args: argparse.Namespace) -> None:
    shape = Shape.of(read_config(args.model))
    if shape.layers < 2:
        raise EvalError("a model of one layer cannot be cut")
    tried = args.boundaries or search.candidates(shape.layers)
    if max([*tried, *args.also]) >= shape.layers:
        raise EvalError(f"--boundaries, --also: the model has {shape.layers} layers")
    texts = Texts(args.folder / "texts")
    items = make_items(args.model, texts, args.tokens, args.items or ITEMS, args.seed)
    chosen_on, judged_on = halves(items)
    daemons = Daemons(args)

    with daemons.asked(args.model, chosen_on, "--lazy-boundaries=" + comma(tried)) as daemon:
        found = search.cheapest(
            tried, shape.layers, TOLERANCES, lambda many: daemon.losses_of_cuts(tried, many)
        )
    profiles = {name: of.cuts for name, of in found.items()}
    cuts = sorted({boundary for of in profiles.values() for boundary, _ in of})
    boundaries = sorted({*cuts, *args.also})
    heads, table = choose_heads(args.model, shape, items, cuts, boundaries)
    value = lazy_file.contents(shape.layers, boundaries, heads, profiles)
    by_mean, by_heads = sum(of.loss for of in found.values()), sum(daemons.losses(value, chosen_on))
    if by_heads > by_mean:
        value = lazy_file.contents(shape.layers, boundaries, {}, profiles)
    out = args.out or args.model / lazy_file.NAME
    lazy_file.write(out, value)

    report_heads(table, by_mean, by_heads)
    report_profiles(found, daemons.losses(value, judged_on), shape.layers)
    say(f"wrote {out}")


class Daemons:
    """Started one after the other; they keep their replies in one place."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._pb = stubs(args)
        self._store = Store(args.folder / "calibrate.jsonl")

    def asked(
        self, model: Path, items: Sequence[Item], *more: str
    ) -> AbstractContextManager[replies.Replies]:
        return replies.asked(self._args.skimd, model, self._pb, items, self._store, *more)

    def losses(self, value: dict, items: Sequence[Item]) -> list[float]:
        """Of the profiles in these settings."""
        with (
            replies.model_with(self._args.model, value) as model,
            self.asked(model, items) as daemon,
        ):
            return daemon.losses_of_profiles(list(value["profiles"]))


def choose_heads(
    model: Path, shape: Shape, items: Sequence[Item], cuts: list[int], boundaries: list[int]
) -> tuple[Heads, Table]:
    """By half of the first items; and what the others need by them."""
    chosen_on, judged_on = map(choose.Scores, halves(look(model, items[:MOST_LOOKED_AT])))
    heads = {
        cut: choose.heads_below(chosen_on, choose.segment_below(cut, boundaries), cut, shape.heads)
        for cut in cuts
    }
    return heads, choose.held_out(heads, judged_on)


def report_heads(table: Table, by_mean: float, by_heads: float) -> None:
    print("keep ratio by which no token is lost that an answer needs, held-out items")
    for name, row in table.items():
        print(f"  {name:36}" + "".join(f"{ratio:8.3f}" for ratio in row))
    print(" " * 38 + "    50 %    75 %    90 %")
    chosen = "the mean over all heads" if by_heads > by_mean else "the chosen heads"
    print(
        f"scored by {chosen}: the losses of all profiles add up to {percent(by_mean)} by the mean, "
        f"{percent(by_heads)} by the chosen heads"
    )


def report_profiles(found: dict[str, Found], judged: Sequence[float], layers: int) -> None:
    print("work that is left, and tokens of right replies lost by the task that loses most")
    for (name, of), loss in zip(found.items(), judged, strict=True):
        cuts = ", ".join(f"{share:g} after {boundary}" for boundary, share in of.cuts)
        left = search.cost(of.cuts, layers) / layers
        print(
            f"  {name:11} keeps {cuts}: {percent(left)}; {percent(of.loss)} of the items that "
            f"chose, {percent(loss)} of those held out"
        )


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def comma(layers: Sequence[int]) -> str:
    return ",".join(map(str, layers))
