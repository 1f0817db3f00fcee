"""A dashboard's panels, and what Prometheus answers to their queries."""

import json
import math
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# As Grafana: four times the scrape interval of deploy/prometheus.
RATE_INTERVAL = "1m"


class DashboardError(Exception):
    pass


@dataclass(frozen=True)
class Query:
    expression: str
    legend: str  # with {{label}} for a label's value


@dataclass(frozen=True)
class Panel:
    title: str
    unit: str
    # In a grid of 24 columns.
    x: int
    y: int
    width: int
    height: int
    queries: tuple[Query, ...]


@dataclass(frozen=True)
class Line:
    name: str
    points: tuple[tuple[float, float], ...]  # seconds since 1970, value


def read_rows(path: Path) -> dict[str, list[Panel]]:
    """Panels that change over time, by the title of the row above them."""
    try:
        dashboard = json.loads(path.read_text(encoding="utf-8"))
        rows: dict[str, list[Panel]] = {}
        for panel in dashboard["panels"]:
            if panel["type"] == "row":
                rows[panel["title"]] = []
            elif panel["type"] == "timeseries":
                next(reversed(rows.values())).append(_panel(panel))
    except (OSError, ValueError, KeyError, StopIteration) as error:
        raise DashboardError(f"{path} is no dashboard with rows: {error!r}") from error
    return rows


def _panel(panel: dict) -> Panel:
    at = panel["gridPos"]
    queries = tuple(Query(t["expr"], t.get("legendFormat", "")) for t in panel["targets"])
    unit = panel["fieldConfig"]["defaults"].get("unit", "short")
    return Panel(panel["title"], unit, at["x"], at["y"], at["w"], at["h"], queries)


def fill_in(expression: str, variables: dict[str, str]) -> str:
    """$name or ${name} by its value; a name that is unknown stays."""
    def value_of(found: re.Match) -> str:
        return variables.get(found[1] or found[2], found[0])

    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", value_of, expression)


def legend_of(legend: str, labels: dict[str, str]) -> str:
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda found: labels.get(found[1], ""), legend).strip()


# `start`, `end`: seconds since 1970; a point every `step` seconds.
Fetch = Callable[[str, float, float, float], list[dict]]


def lines_of(
    panel: Panel, fetch: Fetch, variables: dict[str, str], start: float, end: float, step: float
) -> list[Line]:
    lines = []
    for query in panel.queries:
        for series in fetch(fill_in(query.expression, variables), start, end, step):
            points = ((float(at), float(value)) for at, value in series["values"])
            finite = tuple((at, value) for at, value in points if math.isfinite(value))
            if finite:
                lines.append(Line(legend_of(query.legend, series["metric"]), finite))
    return lines


def prometheus(address: str) -> Fetch:
    def fetch(expression: str, start: float, end: float, step: float) -> list[dict]:
        query = urllib.parse.urlencode(
            {"query": expression, "start": start, "end": end, "step": step}
        )
        url = f"http://{address}/api/v1/query_range?{query}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]["result"]
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")
            raise DashboardError(f"Prometheus refuses {expression}: {said}") from error
        except (OSError, ValueError, KeyError) as error:
            raise DashboardError(f"no answer of Prometheus at {address}: {error}") from error

    return fetch
