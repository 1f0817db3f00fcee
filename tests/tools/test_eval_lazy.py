import dataclasses
import math
import tempfile
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import tool_path  # noqa: F401
from eval import lazy, lazy_report, verdicts
from eval.calls import Call, Reply, Scored
from eval.lazy import EXACT, SETTINGS, Setting
from eval.prompts import Item
from eval.store import Store

HALF = Setting("half", random_keep=0.5)
FAST = SETTINGS["fast"]


def item(task: str, number: int, length: int = 1024) -> Item:
    prompt = tuple(range(100 * number, 100 * number + 60))
    return Item(task, "last", length, prompt, (10, 50), (7, 8), reply_tokens=2)


class FakeClient:
    """Right unless pruned; pruned replies come in half of the time and are right for even
    prompts."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def generate(self, call: Call) -> Reply:
        self.calls.append(call)
        right = call.prefill is None or call.prompt[0] % 200 == 0
        tokens = list(call.forced) or ([7, 8] if right else [7, 9])
        scored = [Scored(t, -1.0 if right else -1.5, ((t, -0.1), (0, -3.0))) for t in tokens]
        ms = 100.0 if call.prefill is None else 50.0
        final = {"timings": {"time_to_first_token_ms": ms}}
        if call.prefill is not None:
            final["prefill"] = {"mode": "MODE_LAZY"}
        return Reply(tokens, scored, [], final)


class Formats(unittest.TestCase):
    def test_each_setting_runs_in_each_format_and_the_first_keeps_the_names(self) -> None:
        both = lazy.with_weights([SETTINGS[EXACT], FAST], ["bf16", "int8"])
        self.assertEqual([s.name for s in both], ["exact", "fast", "exact int8", "fast int8"])
        self.assertEqual(lazy.call_of(item("needles", 1), both[3], 1).weights, "int8")


class Offered(unittest.TestCase):
    def test_profiles_that_the_server_lacks_are_left_out(self) -> None:
        own = Setting("own", {"lazy": {"keep_ratio": [0.5]}})
        settings = [SETTINGS[EXACT], FAST, SETTINGS["paper"], HALF, own]
        names = [setting.name for setting in lazy.offered(settings, ["fast"])]
        self.assertEqual(names, ["exact", "fast", "half", "own"])


class Timed(unittest.TestCase):
    def test_tasks_take_turns_within_each_length(self) -> None:
        items = [item(task, i) for i in range(3) for task in ("needles", "code")]
        items += [item("needles", 9, 2048)]
        chosen = lazy.timed(items, 3)
        self.assertEqual([i.task for i in chosen], ["needles", "code", "needles", "needles"])
        self.assertEqual([i.length for i in chosen], [1024, 1024, 1024, 2048])


class RandomDrop(unittest.TestCase):
    def test_it_takes_only_from_the_context_and_keeps_the_order(self) -> None:
        whole = item("needles", 1)
        prompt = HALF.prompt(whole, seed=1)
        self.assertEqual(prompt[:10], whole.prompt[:10])
        self.assertEqual(prompt[-10:], whole.prompt[-10:])
        self.assertEqual(len(prompt), 40)
        self.assertEqual(list(prompt), sorted(prompt))

    def test_the_seed_decides(self) -> None:
        whole = item("needles", 1)
        self.assertEqual(HALF.prompt(whole, 1), HALF.prompt(whole, 1))
        self.assertNotEqual(HALF.prompt(whole, 1), HALF.prompt(whole, 2))

    def test_the_first_tokens_are_spared(self) -> None:
        plain = Item("code", "plain", 99, tuple(range(60)), (0, 50), (7,), 1)
        self.assertEqual(HALF.prompt(plain, 1)[:4], (0, 1, 2, 3))


class Running(unittest.TestCase):
    def setUp(self) -> None:
        self.enterContext(mock.patch("eval.progress.say"))
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.store = Store(self.folder / "results.jsonl")
        self.addCleanup(self.store.close)
        self.items = [item("needles", i) for i in range(10)]
        self.items += [item("continuation", i, 2048) for i in range(10, 14)]
        client = FakeClient()
        settings = lazy.with_weights([SETTINGS[EXACT], FAST], ["bf16"])
        self.settings = {setting.name: setting for setting in settings}
        self.values = lazy.run_items(client, self.items, settings, 1, self.store, "d")
        self.calls = client.calls
        self.verdicts = {n: verdicts.judge(self.items, self.values[EXACT], v)
                         for n, v in self.values.items()}  # fmt: skip
        timer = FakeClient()
        timed = lazy.timed(self.items, 3)
        times = lazy.run_times(timer, timed, settings, 1, self.store, "d")
        self.timer_calls = timer.calls
        for name, verdict in self.verdicts.items():
            verdict.gains = verdicts.gains(timed, times[EXACT], times[name])

    def test_settings_take_turns_prompt_by_prompt_when_they_are_timed(self) -> None:
        self.assertEqual([call.prefill is None for call in self.timer_calls], [True, False] * 6)

    def test_only_the_first_token_is_timed(self) -> None:
        self.assertEqual({call.max_tokens for call in self.timer_calls}, {1})
        self.assertEqual({call.forced for call in self.timer_calls}, {()})

    def test_settings_take_turns_with_a_few_items_and_pruned_ones_share(self) -> None:
        client = FakeClient()
        fresh = Store(self.folder / "few.jsonl")
        self.addCleanup(fresh.close)
        with mock.patch("eval.store.ThreadPoolExecutor", lambda _: ThreadPoolExecutor(1)):
            settings = list(self.settings.values())
            lazy.run_items(client, self.items[:4], settings, 1, fresh, "d", in_flight=2)
        shares = [call.shares for call in client.calls]
        self.assertEqual(shares, [None, None, "pruned", "pruned"] * 2)

    def test_a_reply_asked_for_among_others_is_the_reply(self) -> None:
        fresh = Store(self.folder / "others.jsonl")
        self.addCleanup(fresh.close)
        settings = list(self.settings.values())
        values = lazy.run_items(FakeClient(), self.items, settings, 1, fresh, "d", in_flight=4)
        self.assertEqual(values, self.values)

    def test_continuations_are_forced_and_scored(self) -> None:
        self.assertEqual(self.calls[-1].forced, (7, 8))
        self.assertEqual(self.calls[-1].logprobs, lazy.TOP)
        self.assertEqual(self.calls[0].forced, ())

    def test_losses_are_points_below_the_exact_model(self) -> None:
        result = self.verdicts["fast"].tasks["needles"]
        self.assertEqual((result.exact, result.right.value, result.loss.value), (100, 50, 50))
        self.assertEqual(result.lost.value, 50)
        self.assertEqual(self.verdicts[EXACT].overall.loss.value, 0)

    def test_losses_are_told_by_length_too(self) -> None:
        self.items += [item("needles", i, 2048) for i in range(20, 23)]
        client, settings = FakeClient(), list(self.settings.values())
        values = lazy.run_items(client, self.items, settings, 1, self.store, "d")
        verdict = verdicts.judge(self.items, values[EXACT], values["fast"])
        losses = {length: of.loss.value for length, of in verdict.by_length.items()}
        self.assertEqual(losses, {1024: 50, 2048: 100 / 3})

    def test_losses_are_told_by_where_the_question_stands(self) -> None:
        first = [dataclasses.replace(item("needles", i), layout="first") for i in range(20, 23)]
        self.items += first
        client, settings = FakeClient(), list(self.settings.values())
        values = lazy.run_items(client, self.items, settings, 1, self.store, "d")
        verdict = verdicts.judge(self.items, values[EXACT], values["fast"])
        losses = {layout: of.loss.value for layout, of in verdict.by_layout.items()}
        self.assertEqual(losses, {"last": 50, "first": 100 / 3})

    def test_gains_are_per_length(self) -> None:
        gains = self.verdicts["fast"].gains
        self.assertEqual({n: gain.value for n, gain in gains.items()}, {1024: 2, 2048: 2})

    def test_fidelity_compares_the_same_tokens(self) -> None:
        kept = self.verdicts["fast"].fidelity
        self.assertEqual(kept.first_token.value, 100)
        self.assertAlmostEqual(kept.nll_difference.value, 0.25)

    def test_the_report_has_a_line_for_each_setting_and_task(self) -> None:
        facts = {"date": "d", "model": "m", "backend": "b", "weights": "bf16", "lengths": "l"}
        facts["timed"] = 12
        text = lazy_report.section(self.verdicts, {"needles": 10}, {**facts, "remark": ""})
        self.assertIn("| fast | 100 | 50.0 [", text)
        self.assertIn("| setting | 1024 |\n|---|---:|\n| fast | 50.0 [", text)
        self.assertIn("| needles | 100.0 [100.0, 100.0] | 50.0 [", text)
        self.assertIn("NLL difference", text)

    def test_rows_name_profile_task_and_length(self) -> None:
        rows = list(lazy_report.rows(self.verdicts, self.settings))
        gain = next(row for row in rows if row["name"] == "ttft_gain")
        self.assertEqual(gain["params"]["prompt_tokens"], 1024)
        self.assertEqual(gain["params"]["profile"], "fast")
        self.assertEqual(gain["params"]["weights"], "bf16")
        loss = [row for row in rows if row["name"] == "loss_points"]
        self.assertEqual({row["params"]["task"] for row in loss}, {"needles", "all"})
        more = [(row["params"].get("prompt_tokens"), row["params"].get("question")) for row in loss]
        self.assertEqual(more, [(None, None), (None, None), (1024, None), (None, "last")])


class Counting(unittest.TestCase):
    def test_a_task_that_the_exact_model_cannot_do_does_not_count(self) -> None:
        items = [item("needles", i) for i in range(5)] + [item("code", i) for i in range(5, 10)]
        final = {"timings": {"time_to_first_token_ms": 1.0}}
        right, wrong = {"tokens": [7, 8], "final": final}, {"tokens": [9, 9], "final": final}
        exact = [right] * 5 + [right, right, wrong, wrong, wrong]
        verdict = verdicts.judge(items, exact, [wrong] * 10)
        self.assertFalse(verdict.tasks["code"].counts)
        self.assertEqual(verdict.overall.exact, 100)
        self.assertEqual(verdict.overall.loss.value, 100)


class Divergence(unittest.TestCase):
    def test_equal_distributions_have_none(self) -> None:
        top = [(1, math.log(0.6)), (2, math.log(0.3))]
        self.assertAlmostEqual(verdicts.kl(top, top), 0)

    def test_it_is_exact_where_all_outcomes_are_listed(self) -> None:
        ours = [(1, math.log(0.6)), (2, math.log(0.4 - 1e-12))]
        theirs = [(2, math.log(0.5)), (1, math.log(0.5 - 1e-12))]
        truth = 0.6 * math.log(0.6 / 0.5) + 0.4 * math.log(0.4 / 0.5)
        self.assertAlmostEqual(verdicts.kl(ours, theirs), truth, places=6)

    def test_it_never_exceeds_the_whole_divergence(self) -> None:
        p, q = [0.5, 0.3, 0.15, 0.05], [0.2, 0.1, 0.3, 0.4]
        truth = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))

        def best(values: list[float]) -> list[tuple[int, float]]:
            order = sorted(range(4), key=lambda i: -values[i])[:2]
            return [(i, math.log(values[i])) for i in order]

        self.assertLessEqual(verdicts.kl(best(p), best(q)), truth)


if __name__ == "__main__":
    unittest.main()
