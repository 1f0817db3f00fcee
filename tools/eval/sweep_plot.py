"""Draws what `skim sweep --json FILE` measured: tokens a second by drafts a round."""

import argparse
import json
import sys
from pathlib import Path

Points = dict[str, list[tuple[int, float]]]


def points(sweep: dict) -> tuple[Points, dict[str, float]]:
    """Of each drafter that was asked for several numbers of drafts, (drafts, tokens/s), ascending;
    and of those that choose for themselves, tokens/s. What was refused is in neither."""
    lines: Points = {}
    levels: dict[str, float] = {}
    for setting in sweep["settings"]:
        if "refused" in setting:
            continue
        if "draft_tokens" in setting:
            line = lines.setdefault(setting["drafter"], [])
            line.append((setting["draft_tokens"], setting["tokens_per_s"]))
        else:
            levels[setting["drafter"]] = setting["tokens_per_s"]
    return {drafter: sorted(line) for drafter, line in lines.items()}, levels


def draw(sweep: dict, out: Path) -> None:
    # Here and not above: the tests of the pure part do without it.
    import matplotlib

    matplotlib.use("svg")
    # The same figures give the same file.
    matplotlib.rcParams["svg.hashsalt"] = "skim"
    from matplotlib import pyplot

    lines, levels = points(sweep)
    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for drafter, line in lines.items():
        axes.plot(*zip(*line, strict=True), marker="o", label=drafter)
    for drafter, rate in levels.items():
        axes.axhline(rate, linestyle="--", color="k" if drafter == "off" else "grey", label=drafter)
    axes.set_xlabel("drafts a round, at most")
    axes.set_ylabel("tokens/s")
    axes.set_ylim(bottom=0)
    axes.set_title(f"{sweep['model']}, {sweep['prompts']} prompts")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(out, metadata={"Date": None}, bbox_inches="tight")
    pyplot.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sweep", type=Path, help="the JSON file")
    parser.add_argument("--out", type=Path, help="default: the same name with .svg")
    args = parser.parse_args()
    try:
        draw(json.loads(args.sweep.read_text("utf-8")), args.out or args.sweep.with_suffix(".svg"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"sweep_plot: {args.sweep}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
