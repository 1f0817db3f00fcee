"""Accuracy lost against time saved, as pictures."""

from pathlib import Path

from eval.lazy import EXACT
from eval.lazy_report import Verdicts

# Who loses more would press all others into one line.
MOST_POINTS = 25


def draw(verdicts: Verdicts, folder: Path, title: str) -> list[Path]:
    """One picture a prompt length, written as lazy-LENGTH.svg; returns their paths."""
    # Here and not above: the tests of the pure parts do without it.
    import matplotlib

    matplotlib.use("svg")
    # The same figures give the same file.
    matplotlib.rcParams["svg.hashsalt"] = "skim"
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for length in verdicts[EXACT].gains:
        figure, axes = pyplot.subplots(figsize=(7, 4.5))
        beyond = []
        for name, verdict in verdicts.items():
            if verdict.overall is None or name == EXACT:
                continue
            gain, loss = verdict.gains[length], verdict.overall.loss
            if loss.value > MOST_POINTS:
                beyond.append(f"{name} ({gain.value:.1f}x) loses {loss.value:.0f} points")
                continue
            axes.errorbar(
                gain.value,
                loss.value,
                xerr=[[max(0, gain.value - gain.low)], [max(0, gain.high - gain.value)]],
                yerr=[[max(0, loss.value - loss.low)], [max(0, loss.high - loss.value)]],
                fmt="o",
                capsize=3,
                label=name,
            )
        axes.plot(1, 0, "k*", label=EXACT)
        below = f"\nnot shown: {', '.join(beyond)}" if beyond else ""
        axes.set_xlabel(f"time to the first token at {length} tokens: exact / setting{below}")
        axes.set_ylabel("accuracy lost, points (all lengths)")
        axes.set_title(title)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
        paths.append(folder / f"lazy-{length}.svg")
        figure.savefig(paths[-1], metadata={"Date": None}, bbox_inches="tight")
        pyplot.close(figure)
    return paths
