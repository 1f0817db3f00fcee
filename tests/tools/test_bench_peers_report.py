import unittest

import tool_path  # noqa: F401
from bench_peers import machine, report
from bench_peers.errors import BenchError
from bench_peers.report import BEGIN, END, with_section
from bench_peers.results import Contestant, Results

CPUINFO = """\
processor\t: 0
model name\t: Test CPU 3000
flags\t\t: fpu avx avx2 avx512f avx512_bf16 amx_tilex
processor\t: 1
model name\t: Test CPU 3000
"""
SETTING = report.Setting(
    date="2030-01-02",
    machine="a machine",
    threads=2,
    rounds=5,
    model="Tiny",
    versions={"skim": "1.0", "other": "2.0"},
    remarks={"skim": "over gRPC", "other": "in process"},
)


class Machine(unittest.TestCase):
    def test_it_is_told_with_the_flags_that_matter(self) -> None:
        text = machine.describe(CPUINFO, "MemTotal:       25165824 kB\n", 2)
        self.assertEqual(text, "Test CPU 3000, 2 cores, 24 GiB; avx2 avx512f avx512_bf16")

    def test_an_unknown_machine_is_told_too(self) -> None:
        self.assertEqual(machine.describe("", "", 1), "unknown CPU, 1 core, 0 GiB; no vector flags")


class Section(unittest.TestCase):
    def setUp(self) -> None:
        self.results = Results()
        self.results.add(Contestant("other", "bf16"), {"decode1_tokens_per_s": [50.0]})
        self.results.add(Contestant("skim", "bf16"), {"decode1_tokens_per_s": [123.4]})
        self.results.not_measured[Contestant("skim", "int8")] = "not served"

    def test_skim_stands_first_and_the_others_have_the_ratio(self) -> None:
        lines = report.section(self.results, SETTING).splitlines()
        table = [line for line in lines if line.startswith("| ")]
        self.assertEqual(len({line.count("|") for line in table}), 1)
        self.assertEqual(table[1], "| skim | bf16 | 123 | - | - | - |")
        self.assertEqual(table[2], "| other | bf16 | 50.0 (2.47x) | - | - | - |")

    def test_it_tells_machine_versions_set_up_and_what_is_missing(self) -> None:
        text = report.section(self.results, SETTING)
        for fact in ("2030-01-02", "a machine", "5 interleaved rounds", "2 threads"):
            self.assertIn(fact, text)
        self.assertIn("- other 2.0: in process\n", text)
        self.assertIn("- not measured: skim int8: not served\n", text)


class Document(unittest.TestCase):
    def test_the_section_goes_to_the_end_first_and_is_replaced_then(self) -> None:
        once = with_section("# Title\n\nText.\n", "old\n")
        self.assertEqual(once, f"# Title\n\nText.\n\n{BEGIN}\nold\n{END}\n")
        later = with_section(once + "\nMore.\n", "new\n")
        self.assertEqual(later, f"# Title\n\nText.\n\n{BEGIN}\nnew\n{END}\n\nMore.\n")
        self.assertEqual(with_section(later, "new\n"), later)

    def test_an_empty_document_begins_with_it(self) -> None:
        self.assertEqual(with_section("", "x\n"), f"{BEGIN}\nx\n{END}\n")

    def test_broken_markers_are_refused(self) -> None:
        for document in (BEGIN, END, f"{END}\n{BEGIN}\n", f"{BEGIN}{END}{END}"):
            with self.subTest(document), self.assertRaises(BenchError):
                with_section(document, "x\n")


if __name__ == "__main__":
    unittest.main()
