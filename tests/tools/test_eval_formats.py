import tempfile
import unittest
from pathlib import Path
from unittest import mock

import numpy as np

import tool_path  # noqa: F401
from eval import formats, formats_report
from eval.calls import Call, Reply, Scored
from eval.formats import BASE, Measured, Plan, Setting
from eval.store import Store

INT8 = Setting("int8", "bf16")
PLAN = Plan(context=4, pieces=2, prompt=2, reply=3, replies=1, in_flight=2)
DOCUMENTS = {"x": [("x", "abcdefgh" * 4)], "y": [("y", "stuvwxyz" * 4)]}


class FakeClient:
    """Each token costs 1 nat, and one tenth more in int8, where also 'e' tops everything."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def generate(self, call: Call) -> Reply:
        self.calls.append(call)
        is_int8 = call.weights == "int8"

        def scored(token: int) -> Scored:
            top = ord("e") if is_int8 else token
            return Scored(token, -1.1 if is_int8 else -1.0, ((top, -0.5),))

        return Reply(
            tokens=[7, 8 if is_int8 else 9, 10][: call.max_tokens],
            prompt=[scored(token) for token in call.prompt[1:]],
        )


def tokenize(text: str) -> list[int]:
    return list(map(ord, text))


class Measuring(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.enterContext(mock.patch("eval.progress.say"))
        self.store = Store(Path(folder.name) / "results.jsonl")
        self.addCleanup(self.store.close)
        self.client = FakeClient()
        self.material = formats.gather(DOCUMENTS, PLAN, tokenize)

    def measure(self, setting: Setting, daemon: str = "one") -> Measured:
        return formats.measure(self.client, setting, self.material, PLAN, self.store, daemon)

    def test_both_texts_give_pieces_and_prompts(self) -> None:
        self.assertEqual([len(piece) for piece in self.material.scored], [4] * 4)
        self.assertEqual([len(prompt) for prompt in self.material.prompts], [2] * 2)

    def test_the_second_half_of_each_piece_is_scored(self) -> None:
        measured = self.measure(BASE)
        self.assertEqual(measured.tokens.tolist(), [2] * 4)
        self.assertEqual(measured.nll.tolist(), [2.0] * 4)
        self.assertEqual(measured.top.tolist(), [list(p[2:]) for p in self.material.scored])

    def test_formats_are_compared_with_the_base(self) -> None:
        result = formats.compare(self.measure(BASE), self.measure(INT8))
        self.assertAlmostEqual(result.perplexity, np.exp(1.1))
        self.assertAlmostEqual(result.increase.value, 100 * (np.exp(0.1) - 1))
        scored = [token for piece in self.material.scored for token in piece[2:]]
        share = sum(token == ord("e") for token in scored) / len(scored)
        self.assertAlmostEqual(result.agreement.value, 100 * share)
        self.assertEqual(result.agreed_tokens.value, 1)
        self.assertEqual(result.whole_replies.value, 0)

    def test_results_are_reused_for_the_same_daemon_only(self) -> None:
        self.measure(BASE)
        calls = len(self.client.calls)
        self.measure(BASE)
        self.assertEqual(len(self.client.calls), calls)
        self.measure(BASE, daemon="two")
        self.assertEqual(len(self.client.calls), 2 * calls)


class Daemons(unittest.TestCase):
    def test_weights_share_a_daemon_and_kv_formats_have_one_each(self) -> None:
        skipped: dict[Setting, str] = {}
        asked = formats.daemons(["int8", "int4"], ["bf16", "fp8"], False, skipped)
        self.assertEqual(asked, [("bf16", ["bf16", "int8", "int4"]), ("fp8", ["bf16"])])
        self.assertEqual(skipped, {})

    def test_a_server_that_runs_has_one_kv_format(self) -> None:
        skipped: dict[Setting, str] = {}
        asked = formats.daemons(["bf16"], ["bf16", "fp8"], True, skipped)
        self.assertEqual(asked, [("bf16", ["bf16"])])
        self.assertEqual(list(skipped), [Setting("bf16", "fp8")])

    def test_only_what_differs_from_the_default_is_asked_for(self) -> None:
        self.assertEqual(formats.daemon_arguments(["bf16"], "bf16"), [])
        self.assertEqual(
            formats.daemon_arguments(["bf16", "int8"], "fp8"),
            ["--weights", "bf16,int8", "--kv-format", "fp8"],
        )


class CommonPrefix(unittest.TestCase):
    def test_it_ends_at_the_first_difference_or_the_shorter_end(self) -> None:
        self.assertEqual(formats.common_prefix([1, 2, 3], [1, 2, 4]), 2)
        self.assertEqual(formats.common_prefix([1, 2], [1, 2, 4]), 2)
        self.assertEqual(formats.common_prefix([], [1]), 0)


class Report(unittest.TestCase):
    def setUp(self) -> None:
        def measured(factor: float) -> Measured:
            tops = np.array([[1, 2], [3, 4]])
            nll = np.array([2.0, 4.0]) * factor
            return Measured(nll, np.array([2, 2]), tops, [[1, 2], [3, 4]])

        base = measured(1)
        self.results = {
            BASE: formats.compare(base, base),
            INT8: formats.compare(base, measured(1.1)),
        }
        self.skipped = {Setting("int4", "bf16"): "not resident"}

    def test_the_base_has_a_perplexity_and_the_others_their_differences(self) -> None:
        rows = list(formats_report.rows(self.results, self.skipped))
        of_base = [row for row in rows if row["params"]["weights"] == "bf16"]
        self.assertEqual([row["name"] for row in of_base], ["perplexity"])
        names = [row["name"] for row in rows if row["params"]["weights"] == "int8"]
        self.assertIn("perplexity_increase", names)
        self.assertIn("top1_agreement", names)
        self.assertEqual(rows[-1]["params"]["reason"], "not resident")

    def test_the_table_has_a_line_for_each_setting_and_says_what_is_missing(self) -> None:
        facts = {"date": "d", "model": "m", "backend": "b", "sources": ("x", "y")}
        text = formats_report.section(
            self.results, self.skipped, PLAN, {**facts, "remark": "From 4 bits."}
        )
        self.assertIn("| bf16 | bf16 | 4.482 |", text)
        self.assertIn("| int8 | bf16 |", text)
        self.assertIn("From 4 bits.", text)
        self.assertIn("not measured: int4 weights, bf16 KV: not resident", text)


if __name__ == "__main__":
    unittest.main()
