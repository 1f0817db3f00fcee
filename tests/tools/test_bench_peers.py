import unittest

import tool_path  # noqa: F401
from bench_peers import works
from bench_peers.errors import BenchError
from bench_peers.results import OURSELVES, Contestant, Results, visits
from bench_peers.works import METRICS, Prompts, Stream

METRIC = {metric.work: metric for metric in METRICS}
SKIM = Contestant(OURSELVES, "bf16")
OTHER = Contestant("other", "bf16")


class FakeServer:
    """Takes 1 ms for a prompt token and 10 ms for each generated token after the first."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int, int]] = []  # streams, tokens in, tokens out
        self.prompts: list[tuple[int, ...]] = []

    def run(self, prompts: list[list[int]], tokens: int) -> list[Stream]:
        self.calls.append((len(prompts), len(prompts[0]), tokens))
        self.prompts += map(tuple, prompts)
        length = len(prompts[0])
        first = length * 1e-3
        return [Stream(first, first + (tokens - 1) * 1e-2, length, tokens) for _ in prompts]


class Visit(unittest.TestCase):
    def test_the_samples_are_those_of_the_servers_speed(self) -> None:
        samples = works.visit(FakeServer().run, Prompts(1, 1000))
        self.assertEqual(set(samples), {metric.name for metric in METRICS})
        for value in samples["ttft512_ms"]:
            self.assertAlmostEqual(value, 512)
        for value in samples["decode1_tokens_per_s"]:
            self.assertAlmostEqual(value, 100)
        self.assertAlmostEqual(samples["ttft4096_ms"][0], 4096)
        self.assertAlmostEqual(samples["batch16_tokens_per_s"][0], 16 * 128 / (0.512 + 1.27))

    def test_the_measured_work_has_the_stated_lengths(self) -> None:
        server = FakeServer()
        works.visit(server.run, Prompts(1, 1000))
        measured = server.calls[-(works.REPEATS_SINGLE + 2) :]
        singles = [(1, 512, 128)] * works.REPEATS_SINGLE
        self.assertEqual(measured, [*singles, (1, 4096, 1), (16, 512, 128)])

    def test_no_prompt_is_sent_twice_in_any_visit(self) -> None:
        server = FakeServer()
        for seed in range(3):
            works.visit(server.run, Prompts(seed, 1000))
        self.assertEqual(len(server.prompts), len(set(server.prompts)))
        # Not even the first tokens are shared, which a prefix cache would use.
        self.assertEqual(len({prompt[:16] for prompt in server.prompts}), len(server.prompts))

    def test_other_work_than_asked_for_is_refused(self) -> None:
        def stops_early(prompts: list[list[int]], tokens: int) -> list[Stream]:
            return [Stream(1, 2, len(prompt), min(tokens, 100)) for prompt in prompts]

        with self.assertRaisesRegex(BenchError, "128 out, but 512 in and 100 out"):
            works.visit(stops_early, Prompts(1, 1000))
        with self.assertRaisesRegex(BenchError, "0 of 1 streams"):
            works.visit(lambda prompts, tokens: [], Prompts(1, 1000))

    def test_tokens_that_come_all_at_once_have_no_speed(self) -> None:
        def buffers(prompts: list[list[int]], tokens: int) -> list[Stream]:
            return [Stream(1, 1, len(prompt), tokens) for prompt in prompts]

        with self.assertRaisesRegex(BenchError, "at the same time"):
            works.visit(buffers, Prompts(1, 1000))


class PromptIds(unittest.TestCase):
    def test_they_are_in_the_vocabulary_and_above_the_special_tokens(self) -> None:
        for vocabulary in (2, 150, 49152):
            ids = Prompts(7, vocabulary).make(2000)
            self.assertEqual(len(ids), 2000)
            self.assertLess(max(ids), vocabulary)
            self.assertGreaterEqual(min(ids), min(100, vocabulary // 2))

    def test_the_same_seed_gives_the_same_prompts(self) -> None:
        self.assertEqual(Prompts(3, 999).make(50), Prompts(3, 999).make(50))
        self.assertNotEqual(Prompts(3, 999).make(50), Prompts(4, 999).make(50))


class Order(unittest.TestCase):
    def test_everybody_is_visited_once_in_each_round(self) -> None:
        everybody = [Contestant(name, "bf16") for name in "abcde"]
        order = list(visits(everybody, 7))
        for begin in range(0, len(order), len(everybody)):
            self.assertCountEqual(order[begin : begin + len(everybody)], everybody)
        self.assertEqual(len(order), 7 * len(everybody))

    def test_the_rounds_begin_with_different_ones(self) -> None:
        everybody = [Contestant(name, "bf16") for name in "abc"]
        order = list(visits(everybody, 3))
        self.assertEqual([order[0], order[3], order[6]], everybody)

    def test_without_contestants_there_are_no_visits(self) -> None:
        self.assertEqual(list(visits([], 5)), [])


class Rows(unittest.TestCase):
    def results(self) -> Results:
        results = Results()
        for speed, ttft in ((100, 200), (90, 300), (140, 100)):
            results.add(SKIM, {"decode1_tokens_per_s": [speed], "ttft512_ms": [ttft]})
        results.add(OTHER, {"decode1_tokens_per_s": [80, 80], "ttft512_ms": [100, 100]})
        return results

    def test_above_one_means_that_skim_is_better_for_speeds_and_for_times(self) -> None:
        results = self.results()
        self.assertAlmostEqual(results.ratio(OTHER, METRIC["decode1"]), 100 / 80)
        self.assertAlmostEqual(results.ratio(OTHER, METRIC["ttft512"]), 100 / 200)

    def test_rows_are_medians_with_their_spread(self) -> None:
        row = next(iter(self.results().rows()))
        self.assertEqual(
            row,
            {
                "suite": "peers",
                "name": "decode1_tokens_per_s",
                "value": 100,
                "unit": "tokens/s",
                "params": {"peer": "skim", "weights": "bf16", "samples": 3, "min": 90, "max": 140},
            },
        )

    def test_a_ratio_names_work_peer_and_weights(self) -> None:
        ratios = [row for row in self.results().rows() if row["name"] == "ratio"]
        self.assertEqual(
            ratios[0],
            {
                "suite": "peers",
                "name": "ratio",
                "value": 1.25,
                "unit": "x",
                "params": {"work": "decode1", "peer": "other", "weights": "bf16"},
            },
        )
        self.assertEqual(len(ratios), 2)  # none of works that were not measured, none of ourselves

    def test_weights_are_compared_with_the_same_weights_only(self) -> None:
        results = self.results()
        results.add(Contestant("other", "int8"), {"decode1_tokens_per_s": [1]})
        self.assertIsNone(results.ratio(Contestant("other", "int8"), METRIC["decode1"]))

    def test_who_failed_has_a_row_with_the_reason(self) -> None:
        results = self.results()
        results.not_measured[Contestant("other", "int8")] = "no network"
        *_, row = results.rows()
        self.assertEqual(row["name"], "not_measured")
        self.assertEqual(
            row["params"], {"peer": "other", "weights": "int8", "reason": "no network"}
        )


if __name__ == "__main__":
    unittest.main()
