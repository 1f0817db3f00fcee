"""What is read from a dashboard and from Prometheus before it is drawn."""

import json
import tempfile
import unittest
from pathlib import Path

import tool_path  # noqa: F401
from dashboard.panels import (
    DashboardError,
    Line,
    Panel,
    Query,
    fill_in,
    legend_of,
    lines_of,
    read_rows,
)

SHIPPED = Path(__file__).resolve().parents[2] / "deploy/grafana/skim.json"


class ReadTest(unittest.TestCase):
    def test_every_panel_of_the_shipped_dashboard_that_changes_over_time_is_in_a_row(self):
        rows = read_rows(SHIPPED)
        drawn = sum(len(panels) for panels in rows.values())
        there = [p["type"] for p in json.loads(SHIPPED.read_text())["panels"]]
        self.assertEqual(drawn, there.count("timeseries"))
        self.assertEqual(len(rows), there.count("row"))
        self.assertTrue(all(panels for panels in rows.values()))

    def test_what_is_no_dashboard_is_refused_by_name(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "x.json"
            for text in ("", "{}", '{"panels": [{"type": "timeseries"}]}'):
                path.write_text(text)
                with self.assertRaisesRegex(DashboardError, "x.json"):
                    read_rows(path)


class QueryTest(unittest.TestCase):
    def test_variables_are_filled_in_and_unknown_ones_stay(self):
        variables = {"job": "skim", "__rate_interval": "1m"}
        filled = fill_in('rate(a{job=~"$job", b="$other"}[$__rate_interval]) + ${job}', variables)
        self.assertEqual(filled, 'rate(a{job=~"skim", b="$other"}[1m]) + skim')

    def test_a_legend_names_the_labels_that_are_there(self):
        self.assertEqual(legend_of("running {{instance}}", {"instance": "a:1"}), "running a:1")
        self.assertEqual(legend_of("{{ drafter }}", {}), "")

    def test_a_line_has_the_finite_points_of_its_series(self):
        panel = Panel("", "s", 0, 0, 8, 8, (Query("up{job=$job}", "{{job}}"),))
        asked = []

        def fetch(*question):
            asked.append(question)
            return [
                {"metric": {"job": "x"}, "values": [[1, "2.5"], [2, "NaN"], [3, "+Inf"]]},
                {"metric": {"job": "y"}, "values": [[1, "NaN"]]},
            ]

        lines = lines_of(panel, fetch, {"job": "q"}, 1, 3, 1)
        self.assertEqual(lines, [Line("x", ((1.0, 2.5),))])
        self.assertEqual(asked, [("up{job=q}", 1, 3, 1)])


if __name__ == "__main__":
    unittest.main()
