"""Samples of all visits, and the rows of JSON made of them."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from bench_peers.works import METRICS, Samples

SUITE = "peers"
OURSELVES = "skim"

Row = dict[str, object]


@dataclass(frozen=True)
class Contestant:
    """One peer with one weight format."""

    peer: str
    weights: str

    def __str__(self) -> str:
        return f"{self.peer} {self.weights}"


def visits(contestants: Sequence[Contestant], rounds: int) -> Iterator[Contestant]:
    """Everybody once a round; each round begins with another one, so that a machine which slowly
    heats up or slows down favours nobody."""
    for first in range(rounds):
        for i in range(len(contestants)):
            yield contestants[(first + i) % len(contestants)]


@dataclass
class Results:
    samples: dict[Contestant, Samples] = field(default_factory=dict)
    not_measured: dict[Contestant, str] = field(default_factory=dict)  # with the reason

    def add(self, contestant: Contestant, samples: Samples) -> None:
        known = self.samples.setdefault(contestant, {})
        for name, values in samples.items():
            known.setdefault(name, []).extend(values)

    def median(self, contestant: Contestant, metric_name: str) -> float | None:
        values = self.samples.get(contestant, {}).get(metric_name)
        return statistics.median(values) if values else None

    def ratio(self, contestant: Contestant, metric) -> float | None:
        """Of Skim to the contestant, with the same weights."""
        ours = self.median(Contestant(OURSELVES, contestant.weights), metric.name)
        theirs = self.median(contestant, metric.name)
        if contestant.peer == OURSELVES or ours is None or theirs is None:
            return None
        return metric.ratio(ours, theirs)

    def rows(self) -> Iterator[Row]:
        for contestant in self.samples:
            for metric in METRICS:
                yield from self._absolute_row(contestant, metric)
        for contestant in self.samples:
            for metric in METRICS:
                ratio = self.ratio(contestant, metric)
                if ratio is not None:
                    params = {"work": metric.work, **_params(contestant)}
                    yield _row("ratio", round(ratio, 3), "x", params)
        for contestant, reason in self.not_measured.items():
            yield _row("not_measured", 1, "count", {**_params(contestant), "reason": reason})

    def _absolute_row(self, contestant: Contestant, metric) -> Iterator[Row]:
        values = self.samples[contestant].get(metric.name)
        if not values:
            return
        params = {
            **_params(contestant),
            "samples": len(values),
            "min": round(min(values), 2),
            "max": round(max(values), 2),
        }
        yield _row(metric.name, round(statistics.median(values), 2), metric.unit, params)


def _params(contestant: Contestant) -> dict[str, str]:
    return {"peer": contestant.peer, "weights": contestant.weights}


def _row(name: str, value: float, unit: str, params: dict[str, object]) -> Row:
    return {"suite": SUITE, "name": name, "value": value, "unit": unit, "params": params}
