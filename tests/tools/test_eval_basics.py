import tempfile
import threading
import unittest
from pathlib import Path
from unittest import mock

import numpy as np

import tool_path  # noqa: F401
from eval import chunks, document, intervals
from eval.daemon import ready_address
from eval.errors import EvalError
from eval.store import Store, key_of, run_all


class Intervals(unittest.TestCase):
    def test_equal_settings_have_no_increase_at_all(self) -> None:
        nll = np.array([10.0, 30.0, 20.0])
        estimate = intervals.perplexity_increase(nll, nll, np.array([5, 5, 5]))
        self.assertEqual((estimate.value, estimate.low, estimate.high), (0, 0, 0))

    def test_perplexity_is_compared_per_token_not_per_piece(self) -> None:
        base, tokens = np.array([10.0, 100.0]), np.array([10, 100])
        estimate = intervals.perplexity_increase(base, base * 1.1, tokens)
        self.assertAlmostEqual(estimate.value, 100 * (np.exp(0.1) - 1))

    def test_pairing_hides_what_differs_between_items(self) -> None:
        rng = np.random.default_rng(0)
        base = rng.uniform(100, 1000, size=200)
        estimate = intervals.perplexity_increase(base, base + 1, np.full(200, 100))
        self.assertLess(estimate.high - estimate.low, 1e-9)

    def test_the_interval_of_a_share_has_the_known_width(self) -> None:
        half = np.array([0.0, 1.0] * 200)
        estimate = intervals.mean(half)
        self.assertAlmostEqual(estimate.value, 0.5)
        self.assertAlmostEqual(estimate.low, 0.5 - 1.96 * 0.5 / 20, delta=0.008)
        self.assertAlmostEqual(estimate.high, 0.5 + 1.96 * 0.5 / 20, delta=0.008)

    def test_the_same_seed_gives_the_same_interval(self) -> None:
        values = np.arange(20.0)
        self.assertEqual(intervals.mean(values), intervals.mean(values))

    def test_nothing_has_no_mean(self) -> None:
        with self.assertRaises(ValueError):
            intervals.mean(np.array([]))


def characters(text: str) -> list[int]:
    return list(map(ord, text))


class Chunks(unittest.TestCase):
    DOCUMENTS = [("a", "a" * 25), ("b", "b" * 95), ("c", "c" * 9)]

    def test_pieces_follow_each_other_and_a_short_rest_is_dropped(self) -> None:
        self.assertEqual(chunks.cut(list(range(7)), 3), [(0, 1, 2), (3, 4, 5)])

    def test_every_document_gives_one_before_any_gives_two(self) -> None:
        drawn = chunks.draw(self.DOCUMENTS, 10, 2, characters, seed=3)
        self.assertEqual({chr(piece[0]) for piece in drawn}, {"a", "b"})

    def test_the_longer_document_fills_up(self) -> None:
        drawn = chunks.draw(self.DOCUMENTS, 10, 11, characters, seed=3)
        self.assertEqual(sum(piece[0] == ord("b") for piece in drawn), 9)

    def test_too_few_pieces_are_an_error(self) -> None:
        with self.assertRaisesRegex(EvalError, "hold 11 pieces of 10 tokens, not 12"):
            chunks.draw(self.DOCUMENTS, 10, 12, characters, seed=3)

    def test_the_seed_decides(self) -> None:
        text = [(str(i), chr(97 + i) * 10) for i in range(20)]
        first = chunks.draw(text, 10, 5, characters, seed=1)
        self.assertEqual(first, chunks.draw(text, 10, 5, characters, seed=1))
        self.assertNotEqual(first, chunks.draw(text, 10, 5, characters, seed=2))


class Stored(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.enterContext(mock.patch("eval.progress.say"))
        self.path = Path(folder.name) / "results.jsonl"

    def open(self) -> Store:
        store = Store(self.path)
        self.addCleanup(store.close)
        return store

    def test_a_second_run_computes_only_what_is_missing(self) -> None:
        asked: list[int] = []
        lock = threading.Lock()

        def job(i: int):
            def compute() -> dict:
                with lock:
                    asked.append(i)
                return {"square": i * i}

            return key_of("square", i), compute

        run_all([job(i) for i in range(5)], self.open(), 2, "squares")
        values = run_all([job(i) for i in range(8)], self.open(), 2, "squares")
        self.assertEqual([value["square"] for value in values], [i * i for i in range(8)])
        self.assertEqual(sorted(asked), list(range(8)))

    def test_a_failure_ends_the_run_and_keeps_what_was_done(self) -> None:
        def fails() -> dict:
            raise EvalError("refused")

        with self.assertRaisesRegex(EvalError, "refused"):
            run_all([("a", lambda: {"x": 1}), ("b", fails)], self.open(), 1, "jobs")
        self.assertEqual(self.open().get("a"), {"x": 1})

    def test_half_a_line_of_an_interrupted_run_is_ignored(self) -> None:
        self.open().put("a", {"x": 1})
        with self.path.open("a") as file:
            file.write('{"key": "b", "val')
        self.open().put("c", {"x": 3})
        store = self.open()
        self.assertEqual([store.get(key) for key in "abc"], [{"x": 1}, None, {"x": 3}])

    def test_keys_do_not_depend_on_the_order_of_fields(self) -> None:
        self.assertEqual(key_of({"a": 1, "b": 2}), key_of({"b": 2, "a": 1}))
        self.assertNotEqual(key_of({"a": 1}), key_of({"a": 2}))


class Document(unittest.TestCase):
    def test_a_part_is_appended_once_and_then_replaced(self) -> None:
        first = document.with_part("# Title\n", "weights", "old\n")
        self.assertTrue(first.startswith("# Title\n\n<!-- weights:"))
        both = document.with_part(first, "lazy", "other\n") + "\nafter\n"
        second = document.with_part(both, "weights", "new\n")
        self.assertEqual(second, both.replace("old\n", "new\n"))

    def test_a_broken_part_is_an_error(self) -> None:
        text = document.with_part("", "weights", "old\n")
        for broken in (text + text, text.replace("weights: end", "")):
            with self.assertRaisesRegex(EvalError, "once each"):
                document.with_part(broken, "weights", "new\n")


class Ready(unittest.TestCase):
    def test_the_address_is_taken_from_the_daemons_line(self) -> None:
        self.assertEqual(ready_address("ready grpc=h:1 metrics=h:2"), "h:1")

    def test_any_other_line_is_an_error(self) -> None:
        for line in ("", "ready", "ready metrics=h:2", "grpc=h:1"):
            with self.assertRaisesRegex(EvalError, "instead of its addresses"):
                ready_address(line)


if __name__ == "__main__":
    unittest.main()
