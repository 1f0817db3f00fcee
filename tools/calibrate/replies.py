"""What replies lose: asked of a daemon, which prunes as it will prune in service."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from calibrate.lazy_file import NAME, spread, write
from calibrate.search import Cuts
from eval.calls import Generator
from eval.lazy import EXACT, SETTINGS, Setting, profile, run_items
from eval.prompts import Item
from eval.settings import connected_to_own
from eval.store import Store, Value

# Prompts of calibrations may be shorter than those that the daemon prunes by itself.
ARGUMENTS = ("--lazy-min-tokens=64",)
IN_FLIGHT = 4


class Replies:
    """Of one daemon to some items. Results are kept in `store` under `identity`."""

    def __init__(
        self, client: Generator, items: Sequence[Item], store: Store, identity: object
    ) -> None:
        self._client, self._items = client, items
        self._store, self._identity = store, identity

    def losses(self, settings: Sequence[Setting]) -> list[float]:
        """Of each, the mean share of a right reply's tokens that are no longer said, in the task
        that loses most."""
        every = [SETTINGS[EXACT], *settings]
        values = run_items(
            self._client, self._items, every, 0, self._store, self._identity, IN_FLIGHT
        )
        return [loss(self._items, values[EXACT], values[s.name]) for s in settings]

    def losses_of_cuts(self, boundaries: Sequence[int], many: Sequence[Cuts]) -> list[float]:
        """`boundaries`: the daemon's."""
        return self.losses([setting_of(boundaries, cuts) for cuts in many])

    def losses_of_profiles(self, names: Sequence[str]) -> list[float]:
        return self.losses([Setting(name, profile(name)) for name in names])


def setting_of(boundaries: Sequence[int], cuts: Cuts) -> Setting:
    return Setting(str(cuts), {"lazy": {"keep_ratio": spread(boundaries, cuts)}})


def loss(items: Sequence[Item], exact: Sequence[Value], values: Sequence[Value]) -> float:
    shares: dict[str, list[float]] = {}  # by task
    for item, before, after in zip(items, exact, values, strict=True):
        most = right_tokens(item, before)
        if most:
            lost = 1 - min(1, right_tokens(item, after) / most)
            shares.setdefault(item.task, []).append(lost)
    return max((float(np.mean(of)) for of in shares.values()), default=0.0)


def right_tokens(item: Item, value: Value) -> int:
    """Before the first that is wrong."""
    both = list(zip(item.answer, value["tokens"], strict=False))
    return next((i for i, (wanted, said) in enumerate(both) if wanted != said), len(both))


@contextlib.contextmanager
def asked(
    skimd: Path, model: Path, pb: ModuleType, items: Sequence[Item], store: Store, *more: str
) -> Iterator[Replies]:
    """A daemon started for this, with arguments `more`."""
    with connected_to_own(skimd, model, pb, [*ARGUMENTS, *more]) as (client, identity):
        yield Replies(client, items, store, identity)


@contextlib.contextmanager
def model_with(model: Path, settings: dict | None) -> Iterator[Path]:
    """A directory with the model's files and these settings, if any, until the end of the context:
    nothing else that was made for the model."""
    with tempfile.TemporaryDirectory() as folder:
        for path in model.iterdir():
            if not path.name.startswith("skim_"):
                (Path(folder) / path.name).symlink_to(path.resolve())
        if settings is not None:
            write(Path(folder) / NAME, settings)
        yield Path(folder)
