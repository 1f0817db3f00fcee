import tempfile
import unittest
from pathlib import Path

import tool_path  # noqa: F401
from calibrate import replies, search
from calibrate.lazy_file import NAME
from calibrate.replies import Replies
from calibrate.search import Cuts, cheapest, cost
from eval.calls import Call, Reply
from eval.prompts import Item
from eval.store import Store

LAYERS = 10


class Losing:
    """Loses the more of replies the less goes on and the earlier; remembers what it was asked."""

    def __init__(self, harmless: dict[int, float]) -> None:
        self.harmless = harmless  # boundary -> what has to go on there for nothing to be lost
        self.asked: list[Cuts] = []

    def __call__(self, many: list[Cuts]) -> list[float]:
        self.asked += many
        return [
            max(max(0.0, self.harmless[boundary] - share) for boundary, share in cuts)
            for cuts in many
        ]


class Cheapest(unittest.TestCase):
    def test_a_cut_costs_the_layers_below_it_and_the_share_of_those_above(self) -> None:
        self.assertAlmostEqual(cost(((6, 0.5),), LAYERS), 8)
        self.assertAlmostEqual(cost(((6, 0.5), (8, 0.1)), LAYERS), 6 + 1 + 0.2)

    def test_profiles_that_may_lose_more_cut_earlier_or_keep_less(self) -> None:
        losses = Losing({5: 0.9, 6: 0.5, 7: 0.3, 8: 0.05, 9: 0.05})
        found = cheapest([5, 6, 7, 8, 9], LAYERS, {"safe": 0, "fast": 0.2}, losses)
        self.assertEqual(found["safe"].cuts[0], (7, 0.3))
        self.assertEqual(found["safe"].loss, 0)
        self.assertEqual(found["fast"].cuts[0], (6, 0.3))
        self.assertLess(cost(found["fast"].cuts, LAYERS), cost(found["safe"].cuts, LAYERS))

    def test_a_second_cut_is_taken_where_it_loses_no_more_than_the_profile_may(self) -> None:
        harmless = {5: 0.5, 6: 0.5, 7: 0.5, 8: 0.1, 9: 0.1}
        found = cheapest([5, 6, 7, 8, 9], LAYERS, {"safe": 0}, Losing(harmless))
        self.assertEqual(found["safe"].cuts, ((5, 0.5), (8, 0.1)))
        # Also where there is no other to choose.
        found = cheapest([5, 9], LAYERS, {"safe": 0}, Losing(harmless))
        self.assertEqual(found["safe"].cuts, ((5, 0.5), (9, 0.1)))

    def test_later_cuts_are_not_tried_once_nothing_is_lost(self) -> None:
        losses = Losing({5: 0.05, 6: 0, 7: 0, 8: 0, 9: 0})
        cheapest([5, 6, 7, 8, 9], LAYERS, {"safe": 0}, losses)
        self.assertEqual({cuts[0][0] for cuts in losses.asked}, {5})

    def test_where_all_lose_too_much_it_is_the_one_that_loses_least(self) -> None:
        found = cheapest([5, 9], LAYERS, {"safe": 0}, Losing({5: 1.5, 9: 0.7}))
        self.assertEqual(found["safe"].cuts, ((9, 0.5),))
        self.assertAlmostEqual(found["safe"].loss, 0.2)

    def test_candidates_lie_in_the_upper_half_of_any_number_of_layers(self) -> None:
        for layers in range(2, 130):
            tried = search.candidates(layers)
            self.assertTrue(1 <= len(tried) <= search.MOST_CANDIDATES)
            self.assertTrue(all(layers // 2 <= boundary < layers for boundary in tried))


def item(prompt: int, answer: tuple[int, ...], task: str = "t") -> Item:
    return Item(task, "last", 9, (prompt,) * 9, (0, 9), answer, reply_tokens=len(answer))


class Says(dict):
    """A client: by a prompt's first token and whether it is pruned, the reply."""

    def generate(self, call: Call) -> Reply:
        return Reply(tokens=list(self[call.prompt[0], call.prefill is not None]))


class WhatRepliesLose(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def losses(self, says: Says, items: list[Item]) -> list[float]:
        store = Store(self.folder / "replies.jsonl")
        self.addCleanup(store.close)
        return Replies(says, items, store, "daemon").losses_of_cuts([2, 4], [((4, 0.5),)])

    def test_tokens_count_up_to_the_first_wrong_one(self) -> None:
        items = [item(1, (7, 8, 9, 7)), item(2, (5, 6))]
        says = Says(
            {(1, False): (7, 8, 9, 7), (1, True): (7, 8, 1, 7),
             (2, False): (5, 6), (2, True): (5, 6)}
        )  # fmt: skip
        self.assertAlmostEqual(self.losses(says, items)[0], 0.25)

    def test_the_task_that_loses_most_counts(self) -> None:
        items = [item(1, (7, 8)), item(2, (5, 6)), item(3, (5, 6), task="other")]
        both = (False, True)
        says = Says({(i, pruned): items[i - 1].answer for i in (1, 2, 3) for pruned in both})
        says[3, True] = (1, 6)
        self.assertEqual(self.losses(says, items)[0], 1)

    def test_what_the_exact_model_gets_wrong_cannot_be_lost_nor_made_good_for(self) -> None:
        items = [item(1, (7, 8)), item(2, (5, 6)), item(3, (5, 6))]
        says = Says(
            {(1, False): (1, 8), (1, True): (7, 8),
             (2, False): (5, 1), (2, True): (5, 6),
             (3, False): (5, 6), (3, True): (1, 6)}
        )  # fmt: skip
        self.assertAlmostEqual(self.losses(says, items)[0], 0.5)

    def test_the_daemon_is_told_a_share_for_each_of_its_boundaries(self) -> None:
        keep = replies.setting_of([2, 4, 6], ((4, 0.5),)).prefill["lazy"]["keep_ratio"]
        self.assertEqual(keep, [1, 0.5, 0.5])

    def test_a_model_with_settings_has_the_weights_but_no_other_settings(self) -> None:
        for name in ("config.json", NAME, "skim_predictors.safetensors"):
            (self.folder / name).write_text("of the model")
        with replies.model_with(self.folder, {"version": 1}) as model:
            names = {path.name for path in model.iterdir()}
            self.assertEqual(names, {"config.json", NAME})
            self.assertIn('"version"', (model / NAME).read_text())
            self.assertEqual((model / "config.json").read_text(), "of the model")
        self.assertEqual((self.folder / NAME).read_text(), "of the model")


if __name__ == "__main__":
    unittest.main()
