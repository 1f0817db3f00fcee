import json
import math
import tempfile
import unittest
from pathlib import Path

import tool_path  # noqa: F401
import numpy as np
from tokenizers import Tokenizer

from byte_tokenizer import merges_of, write_byte_tokenizer
from calibrate import forward, model_files
from hf_directory import ToolError
from layerskip import corpus, domain, model_directory
from layerskip.recipe import (
    CONTROL,
    Recipe,
    depth_scale,
    exit_scale,
    gradual,
    learning_rate,
    rotational,
    time_scale,
)
from layerskip.speedup import (
    Exit,
    best,
    best_replayed,
    draft_cost,
    expected_speedup,
    head_share,
    replayed_speedup,
    table,
)
from model_shapes import PUBLISHED, llama_config

FIRST_PROMPT = (
    "turn the lights to 90 percent in the bedroom in blue then how is the weather in "
    "tartu on wednesday then plan a meeting with nils in turin named meeting meeting "
    "ticket"
)
FIRST_ANSWER = (
    "[set_light [level to 90 percent ] [room in the bedroom ] [colour in blue ] ]\n"
    "[get_weather [city in tartu ] [day on wednesday ] ]\n"
    "[meet [guest with nils ] [city in turin ] [note named meeting meeting ticket ] ]"
)


class Dropout(unittest.TestCase):
    def test_grows_from_nothing_at_the_first_layer_to_p_max_at_the_last(self) -> None:
        # e^(l ln 2 / 4) - 1 is 2^(l / 4) - 1.
        for layer, scale in enumerate([0, 0.189207, 0.414214, 0.681793, 1]):
            self.assertAlmostEqual(depth_scale(layer, 5), scale, places=6)
        self.assertEqual(depth_scale(0, 1), 0)

    def test_grows_over_the_steps_of_training_from_scratch(self) -> None:
        self.assertEqual(time_scale(0, 101), 0)
        self.assertAlmostEqual(time_scale(50, 101), math.sqrt(2) - 1)
        self.assertAlmostEqual(time_scale(100, 101), 1)
        recipe = Recipe(p_max=0.2)
        middle = 0.2 * (math.sqrt(2) - 1) ** 2
        self.assertAlmostEqual(recipe.drop_probability(2, 5, 50, 101), middle)
        self.assertAlmostEqual(recipe.drop_probability(4, 5, 100, 101), 0.2)

    def test_is_there_from_the_first_step_of_fine_tuning(self) -> None:
        recipe = Recipe(p_max=0.2, from_scratch=False)
        self.assertAlmostEqual(recipe.drop_probability(4, 5, 0, 101), 0.2)


class ExitLoss(unittest.TestCase):
    def test_scales_are_sums_of_layers_and_the_last_has_its_depth_on_top(self) -> None:
        self.assertEqual([exit_scale(layer, 5, 1.0) for layer in range(5)], [0, 1, 3, 6, 4 + 6])
        self.assertEqual([exit_scale(layer, 5, 0.5) for layer in range(5)], [0, 0.5, 1.5, 3, 4 + 3])

    def test_rotation_shows_every_layer_once_in_so_many_steps(self) -> None:
        self.assertEqual(rotational(0, 8, 3), {0, 3, 6})
        self.assertEqual(rotational(1, 8, 3), {1, 4, 7})
        self.assertEqual(rotational(2, 8, 3), {2, 5})
        self.assertEqual(rotational(3, 8, 3), rotational(0, 8, 3))

    def test_gradual_goes_from_the_last_layer_to_the_first_in_half_of_the_steps(self) -> None:
        # 80 steps of 4 layers: one more in every 10.
        self.assertEqual(gradual(0, 80, 4), {3})
        self.assertEqual(gradual(9, 80, 4), {3})
        self.assertEqual(gradual(10, 80, 4), {2, 3})
        self.assertEqual(gradual(30, 80, 4), {0, 1, 2, 3})
        self.assertEqual(gradual(79, 80, 4), {0, 1, 2, 3})

    def test_weights_of_a_step_are_its_scales_over_their_sum(self) -> None:
        recipe = Recipe(e_scale=1.0, every=3)
        # Step 1 of 5 layers has 1 and 4, of scales 1 and 10; step 0 has 0, 3 and always the last.
        self.assertEqual(recipe.exit_weights(5, 1, 10), {1: 1 / 11, 4: 10 / 11})
        self.assertEqual(recipe.exit_weights(5, 0, 10), {3: 6 / 16, 4: 10 / 16})

    def test_an_exit_to_be_deployed_has_its_share_in_every_step(self) -> None:
        recipe = Recipe(e_scale=1.0, every=3, deployed=2, deployed_share=0.3)
        for step in range(6):
            weights = recipe.exit_weights(5, step, 10)
            self.assertEqual(weights[1], 0.3)
            self.assertAlmostEqual(sum(weights.values()), 1)
        self.assertAlmostEqual(recipe.exit_weights(5, 0, 10)[4], 0.7 * 10 / 16)

    def test_the_control_learns_by_the_last_layer_alone(self) -> None:
        for step in range(5):
            self.assertEqual(CONTROL.exit_weights(4, step, 5), {3: 1.0})
            self.assertEqual(CONTROL.drop_probability(3, 4, step, 5), 0)

    def test_the_rate_rises_to_its_peak_and_falls_to_a_twentieth(self) -> None:
        self.assertEqual(learning_rate(0, 100, 1.0, 10), 0.1)
        self.assertEqual(learning_rate(9, 100, 1.0, 10), 1.0)
        self.assertEqual(learning_rate(10, 100, 1.0, 10), 1.0)
        self.assertAlmostEqual(learning_rate(55, 100, 1.0, 10), 0.525)
        self.assertAlmostEqual(learning_rate(100, 100, 1.0, 10), 0.05)


class Speedup(unittest.TestCase):
    def test_the_head_of_the_default_model_is_eight_layers(self) -> None:
        self.assertAlmostEqual(head_share(PUBLISHED["smollm2-135m"]), 8.0, places=2)
        self.assertAlmostEqual(head_share(PUBLISHED["llama2-7b"]), 0.65, places=2)

    def test_a_draft_costs_its_layers_and_a_head(self) -> None:
        self.assertEqual(draft_cost(2, 10, 0.0), 0.2)
        self.assertEqual(draft_cost(2, 9, 1.0), 0.3)
        self.assertEqual(draft_cost(9, 9, 1.0), 1.0)

    def test_expected_gain_against_sums_made_by_hand(self) -> None:
        self.assertAlmostEqual(expected_speedup(0.5, 2, 0.25), 1.75 / 1.5)
        self.assertAlmostEqual(expected_speedup(1.0, 4, 0.1), 5 / 1.4)
        # Break-even of one draft: agreement = cost.
        self.assertAlmostEqual(expected_speedup(0.3, 1, 0.3), 1)

    def test_the_best_number_of_drafts_grows_with_agreement(self) -> None:
        self.assertEqual(best(0.1, 0.5).drafts, 1)
        self.assertLess(best(0.1, 0.5).speedup, 1)
        self.assertGreater(best(0.95, 0.1).drafts, best(0.7, 0.1).drafts)

    def test_replay_counts_rounds_passes_and_tokens(self) -> None:
        # Two drafts a round: tt -> 3 tokens, f -> 1, t -> 2 (the last token needs no draft).
        text = [True, True, True, False, True, True]
        # Rounds at 0 (2 drafts, both right), 3 (2 drafts, first wrong), 4 (1 draft, right).
        self.assertAlmostEqual(replayed_speedup([text], 2, 0.1), 6 / (1.2 + 1.2 + 1.1))
        self.assertAlmostEqual(replayed_speedup([text, text], 2, 0.1), 6 / 3.5)
        self.assertEqual(replayed_speedup([], 2, 0.1), 0)

    def test_replay_of_drafts_never_right_costs_what_they_cost(self) -> None:
        worst = best_replayed([[False] * 50], 0.2)
        self.assertEqual(worst.drafts, 1)
        self.assertAlmostEqual(worst.speedup, 50 / (50 + 49 * 0.2))


class Domain(unittest.TestCase):
    def test_a_seed_and_a_number_give_an_example_whatever_was_drawn_before(self) -> None:
        late = domain.example(3, domain.TRAIN, 50)
        for number in range(50):
            domain.example(3, domain.TRAIN, number)
        self.assertEqual(domain.example(3, domain.TRAIN, 50), late)
        self.assertNotEqual(domain.example(4, domain.TRAIN, 50), late)
        self.assertNotEqual(domain.example(3, domain.TRAIN, 51), late)

    def test_examples_are_those_of_every_machine_and_version(self) -> None:
        drawn = domain.example(0, domain.HELD_OUT, 0)
        self.assertEqual(drawn.prompt, FIRST_PROMPT)
        self.assertEqual(drawn.answer, FIRST_ANSWER)

    def test_no_prompt_is_in_both_parts_and_hardly_one_comes_twice(self) -> None:
        train = [domain.example(0, domain.TRAIN, i).prompt for i in range(2000)]
        held_out = [domain.example(0, domain.HELD_OUT, i).prompt for i in range(200)]
        self.assertFalse(set(train) & set(held_out))
        self.assertGreater(len(set(train)), 1990)
        self.assertEqual({domain.part_of(prompt) for prompt in held_out}, {domain.HELD_OUT})

    def test_answers_hold_every_slot_of_the_prompt_in_balanced_brackets(self) -> None:
        for number in range(100):
            drawn = domain.example(1, domain.TRAIN, number)
            self.assertEqual(drawn.answer.count("["), drawn.answer.count(" ]"))
            lines = drawn.answer.split("\n")
            self.assertTrue(domain.MIN_COMMANDS <= len(lines) <= domain.MAX_COMMANDS)
            for line in lines:
                self.assertIn(line[1:].split(" ")[0], domain.INTENTS)
                for slot in line.split(" [")[1:]:
                    name, said = slot.split(" ]")[0].split(" ", 1)
                    self.assertIn(name, domain.SLOTS)
                    self.assertIn(said, drawn.prompt)


class InFolder(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)


class Tokens(InFolder):
    def test_merges_shorten_the_domain_and_change_no_text(self) -> None:
        corpus.write_tokenizer(self.folder, 0, 512)
        tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        self.assertEqual(tokenizer.get_vocab_size(), 512)
        self.assertEqual(tokenizer.token_to_id("<|im_end|>"), 258)
        for text in (domain.example(0, domain.HELD_OUT, 1).answer, "héllo 😀 <|im_end|>"):
            ids = tokenizer.encode(text).ids
            self.assertLess(max(ids), 512)
            self.assertEqual(tokenizer.decode(ids, skip_special_tokens=False), text)
        answer = domain.example(0, domain.HELD_OUT, 1).answer
        self.assertLess(len(tokenizer.encode(answer).ids), len(answer) / 2)

    def test_the_same_texts_give_the_same_merges(self) -> None:
        texts = ["wake me at 7:45"] * 3 + ["take me to the museum"] * 2
        self.assertEqual(merges_of(texts, 300), merges_of(list(texts), 300))

    def test_a_vocabulary_too_small_for_its_merges_is_refused(self) -> None:
        with self.assertRaisesRegex(ToolError, "vocabulary of 260, not 259"):
            write_byte_tokenizer(self.folder, 259, [("a", "b")])


class ModelDirectory(InFolder):
    CONFIG = llama_config(
        layers=2,
        hidden=16,
        intermediate=24,
        heads=2,
        kv_heads=1,
        vocab=260,
        positions=64,
        theta=1e4,
        tied=True,
    )

    def test_what_is_written_is_what_the_reference_runs(self) -> None:
        from random_weights import draw, tensor_shapes

        shapes = tensor_shapes(self.CONFIG)
        tensors = {name: draw(name, shape, self.CONFIG, 1) for name, shape in shapes.items()}
        model_directory.write_model(self.folder, self.CONFIG, tensors)
        config = model_files.read_config(self.folder)
        self.assertEqual((config["eos_token_id"], config["torch_dtype"]), (258, "bfloat16"))
        seen = {}

        def states_of(source) -> dict:
            states = {}
            forward.run(
                forward.Shape.of(config),
                source,
                [[1, 2, 3, 250]],
                lambda _, inside: states.update({inside.layer: inside.hidden}),
            )
            return states

        seen = states_of(model_files.Tensors(self.folder))
        wanted = states_of(tensors.get)
        self.assertEqual(set(seen), {0, 1})
        for layer, hidden in seen.items():
            np.testing.assert_allclose(hidden, wanted[layer], rtol=0.05, atol=0.05)
        read = model_directory.read_tensors(self.folder)
        self.assertEqual(read.keys(), tensors.keys())

    def test_the_rest_of_a_fine_tuned_directory_comes_along_and_its_weights_do_not(self) -> None:
        source, target = self.folder / "source", self.folder / "target"
        source.mkdir(), target.mkdir()
        for name in ("tokenizer.json", "LICENSE", "model.safetensors", "skim_stamp.json"):
            (source / name).write_text("old")
        (target / "config.json").write_text("new")
        (source / "config.json").write_text("old")
        model_directory.copy_rest(source, target)
        self.assertEqual(
            sorted(path.name for path in target.iterdir()),
            ["LICENSE", "config.json", "tokenizer.json"],
        )
        self.assertEqual((target / "config.json").read_text(), "new")

    def test_prompts_are_held_out_and_one_a_line(self) -> None:
        model_directory.write_prompts(self.folder, 5, 12)
        lines = (self.folder / "prompts.jsonl").read_text().splitlines()
        prompts = [json.loads(line)["prompt"] for line in lines]
        self.assertEqual(len(set(prompts)), 12)
        self.assertEqual({domain.part_of(prompt) for prompt in prompts}, {domain.HELD_OUT})

    def test_what_was_measured_is_read_back_and_shown(self) -> None:
        exits = [Exit(3, 0.9, 0.8, 0.6, 0.26, best(0.9, 0.26), best_replayed([[True] * 9], 0.26))]
        model_directory.write_exits(self.folder, exits)
        self.assertEqual(model_directory.read_exits(self.folder), exits)
        self.assertRegex(table(exits), r"   3   90\.0%    80\.0%    0\.600   0\.26 .* \( 8\)")

    def test_a_folder_that_is_no_model_is_refused_by_name(self) -> None:
        with self.assertRaisesRegex(ToolError, str(self.folder)):
            model_directory.read_config(self.folder)


if __name__ == "__main__":
    unittest.main()
