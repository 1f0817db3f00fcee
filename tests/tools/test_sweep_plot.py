import unittest

import tool_path  # noqa: F401

from eval.sweep_plot import points


class Points(unittest.TestCase):
    def test_lines_are_drafters_in_order_of_drafts_and_refusals_are_left_out(self) -> None:
        sweep = {
            "settings": [
                {"drafter": "off", "tokens_per_s": 100.0},
                {"drafter": "self:3", "draft_tokens": 8, "tokens_per_s": 190.0},
                {"drafter": "self:3", "draft_tokens": 2, "tokens_per_s": 150.0},
                {"drafter": "self:99", "draft_tokens": 2, "refused": "no such layer"},
                {"drafter": "auto", "tokens_per_s": 120.0},
            ]
        }
        lines, levels = points(sweep)
        self.assertEqual(lines, {"self:3": [(2, 150.0), (8, 190.0)]})
        self.assertEqual(levels, {"off": 100.0, "auto": 120.0})


if __name__ == "__main__":
    unittest.main()
