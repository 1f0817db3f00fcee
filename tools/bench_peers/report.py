"""The section of docs/benchmarks.md that holds the last measurement."""

from dataclasses import dataclass
from pathlib import Path

from bench_peers.errors import BenchError
from bench_peers.results import OURSELVES, Contestant, Results
from bench_peers.works import METRICS

BEGIN = "<!-- peers: written by ./run bench peers -->"
END = "<!-- peers: end -->"


@dataclass(frozen=True)
class Setting:
    """What stays the same for the whole run."""

    date: str
    machine: str
    threads: int
    rounds: int
    model: str
    versions: dict[str, str]  # peer -> version
    remarks: dict[str, str]  # peer -> how it was set up


def section(results: Results, setting: Setting) -> str:
    lines = [
        "## Beside other servers",
        "",
        f"`./run bench peers`, {setting.date}, {setting.model}, on {setting.machine}.",
        f"Medians of {setting.rounds} interleaved rounds, {setting.threads} threads for everybody,",
        "one process at a time, no prefix cache, end tokens ignored, prompts of random token ids.",
        "In brackets: how many times better Skim is at the same weights.",
        "",
        "| peer | weights | " + " | ".join(f"{m.work}, {m.unit}" for m in METRICS) + " |",
        "|---|---|" + "---:|" * len(METRICS),
    ]
    # The formats side by side: that is the comparison people look for.
    for contestant in sorted(results.samples, key=lambda c: (c.weights, c.peer != OURSELVES)):
        cells = [_cell(results, contestant, metric) for metric in METRICS]
        lines.append(f"| {contestant.peer} | {contestant.weights} | {' | '.join(cells)} |")
    lines += [
        "",
        "Its rows are named `ratio` (params `work`, `peer`, `weights`; above 1 = Skim is better),",
        ", ".join(f"`{metric.name}`" for metric in METRICS),
        "(params `peer`, `weights`, `samples`, `min`, `max`) and `not_measured` (params `peer`,",
        "`weights`, `reason`).",
        "",
    ]
    lines += [f"- {metric.work}: {metric.meaning}" for metric in METRICS]
    lines += [
        f"- {peer} {version}: {setting.remarks[peer]}" for peer, version in setting.versions.items()
    ]
    lines += [f"- not measured: {c}: {reason}" for c, reason in results.not_measured.items()]
    return "\n".join(lines) + "\n"


def _cell(results: Results, contestant: Contestant, metric) -> str:
    value = results.median(contestant, metric.name)
    if value is None:
        return "-"
    text = f"{value:.0f}" if value >= 100 else f"{value:.1f}"
    ratio = results.ratio(contestant, metric)
    return text if ratio is None else f"{text} ({ratio:.2f}x)"


def with_section(document: str, text: str) -> str:
    """The document with the old section replaced, or the new one put at its end."""
    block = f"{BEGIN}\n{text}{END}\n"
    if BEGIN not in document and END not in document:
        return (document.rstrip("\n") + "\n\n" if document.strip() else "") + block
    if document.count(BEGIN) != 1 or document.count(END) != 1:
        raise BenchError(f"the file should hold '{BEGIN}' and '{END}' once each, or neither")
    before, rest = document.split(BEGIN)
    old, separator, after = rest.partition(END)
    if not separator:
        raise BenchError(f"'{END}' stands before '{BEGIN}'")
    return before + block + after.removeprefix("\n")


def write_section(path: Path, text: str) -> None:
    document = path.read_text(encoding="utf-8") if path.exists() else ""
    path.write_text(with_section(document, text), encoding="utf-8")
