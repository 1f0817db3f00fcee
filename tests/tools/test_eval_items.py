import random
import re
import unittest

import tool_path  # noqa: F401
from eval import hidden, labelling, tasks
from eval.errors import EvalError
from eval.prompts import (
    LAYOUTS,
    MARKER,
    Composer,
    Filler,
    Item,
    chat_frame,
    fill,
    split_sentences,
)
from eval.sources import Sources, definitions

SPEECH = "".join(f" This is sentence {i} of a long speech." for i in range(400))
BLOCK = "".join(f"    value_{c} = compute({c})\n" for c in "abcdefgh")
OTHERS = "".join(f"number_{chr(97 + i)} = {i}\n" for i in range(20))
MODULE = f"{OTHERS * 6}def first():\n{BLOCK}\ndef second():\n{BLOCK}\n"
DOCUMENTED = "".join(
    f'def f{i}():\n    """Return the thing of number {i}, which somebody needs."""\n'
    for i in range(20)
)


class Words:
    """A token is a word with the blank before it, a digit, a lone blank before digits, a line
    end, or a mark; ids count up."""

    PATTERN = re.compile(r"\n|\d| (?=\d)|@+| ?[A-Za-z_<>|]+| ?[^\w\s]|[^\S\n]+")

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}

    def tokenize_texts(self, text: str) -> tuple[list[int], list[str]]:
        texts = self.PATTERN.findall(text)
        return [self._ids.setdefault(t, len(self._ids)) for t in texts], texts

    def tokenize(self, text: str) -> list[int]:
        return self.tokenize_texts(text)[0]

    def tokenize_chat(self, content: str) -> list[int]:
        return self.tokenize(f"<user>\n{content}\n<end><reply>")

    def text(self, ids) -> str:
        names = {number: text for text, number in self._ids.items()}
        return "".join(names[i] for i in ids)


class WithSources(unittest.TestCase):
    def setUp(self) -> None:
        self.words = Words()
        composer = Composer(self.words)
        speeches = Filler(self.words, [("one", SPEECH), ("two", SPEECH)])
        modules = [("module.py", MODULE), ("documented.py", DOCUMENTED)]
        self.sources = Sources(composer, speeches, modules)

    def items(self, task: str, length: int, count: int, seed: int = 1) -> list[Item]:
        return tasks.make_items(task, self.sources, [(length, count)], seed)


class EveryTask(WithSources):
    def test_prompts_have_about_the_length_asked_for_and_never_more(self) -> None:
        for task in tasks.TASKS:
            with self.subTest(task):
                for item in self.items(task, 300, 6):
                    self.assertLessEqual(len(item.prompt), 300)
                    self.assertGreater(len(item.prompt), 240)

    def test_the_same_seed_gives_the_same_items_and_another_others(self) -> None:
        for task in tasks.TASKS:
            with self.subTest(task):
                first = self.items(task, 300, 4)
                self.assertEqual(first, self.items(task, 300, 4))
                self.assertNotEqual(first, self.items(task, 300, 4, seed=2))

    def test_an_item_does_not_depend_on_how_many_are_made(self) -> None:
        for task in tasks.TASKS:
            with self.subTest(task):
                self.assertEqual(self.items(task, 300, 2), self.items(task, 300, 5)[:2])

    def test_there_is_an_answer_and_room_for_it(self) -> None:
        for task in tasks.TASKS:
            with self.subTest(task):
                for item in self.items(task, 300, 4):
                    self.assertTrue(item.answer)
                    self.assertGreaterEqual(item.reply_tokens, len(item.answer))


class Retrieval(WithSources):
    TASKS = ("passkey", "needles", "glossary", "replies")

    def test_the_context_holds_the_answer(self) -> None:
        for task in self.TASKS:
            with self.subTest(task):
                for item in self.items(task, 300, 9):
                    context = item.prompt[slice(*item.context)]
                    self.assertIn(self.words.text(item.answer), self.words.text(context))

    def test_question_and_lead_lie_outside_of_the_context(self) -> None:
        last, first, chat = self.items("passkey", 300, 3)
        question = self.words.text(self.words.tokenize("What is the pass key"))
        for item, in_front in ((last, False), (first, True), (chat, False)):
            before = self.words.text(item.prompt[: item.context[0]])
            behind = self.words.text(item.prompt[item.context[1] :])
            self.assertEqual(question in before, in_front)
            self.assertEqual(question in behind, not in_front)
            self.assertTrue(behind.endswith("The pass key is "))
        self.assertTrue(self.words.text(chat.prompt).startswith("<user>"))

    def test_digits_are_asked_for_without_the_blank_before_them(self) -> None:
        item = self.items("needles", 300, 1)[0]
        self.assertRegex(self.words.text(item.answer), r"^\d{5}$")

    def test_layouts_take_turns(self) -> None:
        layouts = [item.layout for item in self.items("passkey", 300, 6)]
        self.assertEqual(layouts, [*LAYOUTS, *LAYOUTS])

    def test_a_prompt_too_short_for_its_question_is_an_error(self) -> None:
        with self.assertRaisesRegex(EvalError, "too short"):
            self.items("passkey", 30, 1)


class Others(WithSources):
    def test_the_label_asked_for_is_that_of_an_example_of_its_kind(self) -> None:
        for item in self.items("labels", 300, 6):
            label = self.words.text(item.answer)
            self.assertIn(label.strip(), labelling.LABELS)
            self.assertIn(f"Label:{label}", self.words.text(item.prompt))

    def test_the_next_line_of_code_stood_there_before(self) -> None:
        for item in self.items("code", 300, 6):
            self.assertIn(self.words.text(item.answer), self.words.text(item.prompt))

    def test_a_continuation_goes_on_with_the_text(self) -> None:
        item = self.items("continuation", 300, 1)[0]
        whole = self.words.text(item.prompt + item.answer)
        self.assertIn(whole, SPEECH + SPEECH)

    def test_definitions_are_first_sentences_of_docstrings(self) -> None:
        found = definitions([("m", DOCUMENTED), ("n", DOCUMENTED)])
        self.assertEqual(len(found), 20)
        self.assertTrue(found[0].startswith("Return the thing"))


class Parts(unittest.TestCase):
    def test_sentences_join_to_the_text(self) -> None:
        words = Words()
        ids, texts = words.tokenize_texts("One is. Two? Three\nis here. It costs 3.5 now!")
        sentences = split_sentences(ids, texts)
        self.assertEqual([t for s in sentences for t in s], ids)
        self.assertEqual(
            [words.text(s) for s in sentences],
            ["One is.", " Two?", " Three\nis here.", " It costs 3.5 now!"],
        )

    def test_needles_keep_their_order_and_the_room_is_not_exceeded(self) -> None:
        hay = ((0, 0, 0) for _ in range(10**6))
        for seed in range(20):
            filled = fill(hay, 32, [(1,), (2, 2)], random.Random(seed))
            self.assertEqual([t for t in filled if t], [1, 2, 2])
            self.assertEqual(len(filled), 30)

    def test_needles_come_to_lie_at_all_depths(self) -> None:
        places = set()
        for seed in range(200):
            hay = ((0,) for _ in range(100))
            places.add(fill(hay, 11, [(1,)], random.Random(seed)).index(1))
        self.assertEqual(places, set(range(11)))

    def test_a_template_that_changes_the_text_is_an_error(self) -> None:
        class Shouting(Words):
            def tokenize_chat(self, content: str) -> list[int]:
                return self.tokenize("nothing of it")

        self.assertEqual(len(chat_frame(Words())), 2)
        self.assertNotIn(MARKER, "nothing of it")
        with self.assertRaisesRegex(EvalError, "template"):
            chat_frame(Shouting())


class Right(unittest.TestCase):
    def item(self, anywhere: bool) -> Item:
        return Item("t", "last", 9, (1, 2), (0, 1), (5, 6), reply_tokens=4, anywhere=anywhere)

    def test_a_reply_to_a_lead_has_to_begin_with_the_answer(self) -> None:
        self.assertTrue(self.item(False).is_right([5, 6, 1]))
        self.assertFalse(self.item(False).is_right([1, 5, 6]))
        self.assertFalse(self.item(False).is_right([5]))

    def test_a_whole_reply_has_to_hold_it(self) -> None:
        self.assertTrue(self.item(True).is_right([1, 5, 6]))
        self.assertFalse(self.item(True).is_right([5, 1, 6]))
        self.assertFalse(self.item(True).is_right([]))


class HiddenThings(unittest.TestCase):
    def test_the_needle_that_is_asked_for_holds_the_key(self) -> None:
        for hide in (hidden.hide_passkey, hidden.hide_needles, hidden.hide_glossary):
            for seed in range(10):
                thing = hide(random.Random(seed))
                self.assertEqual(sum(f" {thing.key}." in n for n in thing.needles), 1)


if __name__ == "__main__":
    unittest.main()
