"""Pictures of panels."""

import datetime
from pathlib import Path

from dashboard.panels import Line, Panel

COLUMNS = 24  # of a dashboard's grid
UNITS = {"s": "s", "percentunit": "%", "reqps": "requests/s", "bytes": "MiB", "short": ""}
SCALES = {"percentunit": 100, "bytes": 2**-20}
MOST_NAMES = 8  # beyond, a legend hides the lines


def draw_row(
    title: str, panels: dict[Panel, list[Line]], span: tuple[float, float], folder: Path
) -> Path:
    """`span`: the time shown, in seconds since 1970. Returns the picture's path."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import dates, pyplot

    folder.mkdir(parents=True, exist_ok=True)
    top = min(panel.y for panel in panels)
    height = max(panel.y + panel.height for panel in panels) - top
    figure = pyplot.figure(figsize=(14, 0.36 * height), layout="constrained")
    grid = figure.add_gridspec(height, COLUMNS)
    begin, end = (datetime.datetime.fromtimestamp(at) for at in span)
    for panel, lines in panels.items():
        rows = slice(panel.y - top, panel.y - top + panel.height)
        axes = figure.add_subplot(grid[rows, panel.x : panel.x + panel.width])
        scale = SCALES.get(panel.unit, 1)
        for line in lines:
            times = [datetime.datetime.fromtimestamp(at) for at, _ in line.points]
            axes.plot(times, [scale * value for _, value in line.points], label=line.name, lw=1.3)
        unit = UNITS.get(panel.unit, panel.unit)
        axes.set_title(f"{panel.title}, {unit}" if unit else panel.title, fontsize=10, loc="left")
        axes.set_xlim(begin, end)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(dates.AutoDateLocator(minticks=3, maxticks=6))
        axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M"))
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
        if not lines:
            axes.text(0.5, 0.5, "no data", ha="center", transform=axes.transAxes, color="gray")
        elif len(lines) <= MOST_NAMES:
            axes.legend(fontsize=7, loc="upper left")
    path = folder / f"{title.split()[0].lower()}.png"
    figure.savefig(path, dpi=90)
    pyplot.close(figure)
    return path
