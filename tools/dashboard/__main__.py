"""./run draw-dashboard: what the dashboard would show, as pictures, for where no Grafana is."""

import argparse
import sys
import time
from pathlib import Path

from dashboard.draw import draw_row
from dashboard.panels import RATE_INTERVAL, DashboardError, lines_of, prometheus, read_rows

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(prog="./run draw-dashboard", description=__doc__)
    add = parser.add_argument
    add("prometheus", metavar="HOST:PORT", help="of a Prometheus with deploy/prometheus's rules")
    add("--dashboard", type=Path, default=ROOT / "deploy/grafana/skim.json")
    add("--job", default=".*", metavar="REGEX", help="of the jobs to show (default: all)")
    add("--instance", default=".*", metavar="REGEX", help="of the daemons to show (default: all)")
    add("--minutes", type=float, default=15, help="to look back (default 15)")
    add("--out", type=Path, default=Path("dashboard"), metavar="FOLDER",
        help="gets one picture a row of the dashboard (default: dashboard)")  # fmt: skip
    args = parser.parse_args()
    if not args.minutes > 0:
        parser.error("--minutes must be more than 0")
    variables = {
        "job": args.job,
        "instance": args.instance,
        "__rate_interval": RATE_INTERVAL,
    }
    end = time.time()
    start = end - 60 * args.minutes
    step = max(5.0, (end - start) / 300)
    try:
        fetch = prometheus(args.prometheus)
        for title, panels in read_rows(args.dashboard).items():
            lines = {p: lines_of(p, fetch, variables, start, end, step) for p in panels}
            print(draw_row(title, lines, (start, end), args.out))
    except DashboardError as error:
        print(f"draw-dashboard: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
