#!/usr/bin/env python3
"""Sums the reports of `./run test` and prints `N passed, N failed`.

Counts the cases that each CTest entry and unittest ran. A test program that failed without
a failed case (a crash, a time-out, something that is not gtest) counts as one failure, and
one that passed without a report as one pass. A suite that left no report at all has failed.
"""

import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

PRESETS = ("release", "asan", "tsan")
UNITTESTS = ("tools", "deploy")
REPORTS = "test-reports"


def gtest_cases(report: Path) -> tuple[int, int] | None:
    """(passed, failed) of one gtest binary; None if it wrote no readable report."""
    try:
        root = ET.parse(report).getroot()
    except (OSError, ET.ParseError):
        return None
    cases = list(root.iter("testcase"))
    run = [case for case in cases if case.get("result") == "completed"]
    failed = sum(1 for case in run if case.find("failure") is not None)
    return len(run) - failed, failed


def ctest_suite(build: Path, preset: str) -> tuple[int, int]:
    reports = build / preset / REPORTS
    try:
        programs = list(ET.parse(reports / "ctest").getroot().iter("testcase"))
    except (OSError, ET.ParseError):
        print(f"{preset}: no report, so it counts as failed")
        return 0, 1
    passed = failed = 0
    for program in programs:
        if program.get("status") in ("disabled", "notrun"):
            print(f"{preset}: {program.get('name')} did not run")
            failed += 1
            continue
        ok = program.get("status") == "run"
        cases = gtest_cases(reports / f"{program.get('name')}.xml")
        good, bad = cases or (int(ok), 0)
        passed += good
        failed += bad if ok or bad else 1
        if bad or not ok:
            print(f"{preset}: {program.get('name')} failed")
    return passed, failed


def unittest_suite(build: Path, name: str) -> tuple[int, int]:
    path = build / REPORTS / f"{name}.unittest"
    text = path.read_text() if path.exists() else ""
    ran = re.search(r"^Ran (\d+) tests?", text, re.MULTILINE)
    if not ran:
        print(f"{name}: no report, so it counts as failed")
        return 0, 1
    verdict = re.search(r"^FAILED \((.*)\)", text, re.MULTILINE)
    counts = dict(re.findall(r"(\w+)=(\d+)", verdict.group(1))) if verdict else {}
    failed = int(counts.get("failures", 0)) + int(counts.get("errors", 0))
    skipped = sum(int(n) for n in re.findall(r"skipped=(\d+)", text))
    return int(ran.group(1)) - failed - skipped, failed


def main() -> None:
    build = Path(sys.argv[1])
    suites = {preset: ctest_suite(build, preset) for preset in PRESETS}
    suites |= {name: unittest_suite(build, name) for name in UNITTESTS}
    for note in sorted((build / REPORTS).glob("*.skipped")):
        print(f"{note.stem}: not tested, {note.read_text().strip()}")
    for name, (passed, failed) in suites.items():
        print(f"{name}: {passed} passed, {failed} failed")
    passed = sum(p for p, _ in suites.values())
    failed = sum(f for _, f in suites.values())
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed or not passed else 0)


if __name__ == "__main__":
    main()
