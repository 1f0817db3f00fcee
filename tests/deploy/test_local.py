"""deploy/local/up.py: everything on one machine, from the first call to the last drain."""

import json
import subprocess
import sys
import unittest
import urllib.parse

from programs import ROOT, Program, free_port, get, post, wait_until


class LocalTest(unittest.TestCase):
    def test_it_comes_up_answers_is_scraped_and_drains(self):
        # Ten ports from a free one on; that others are taken is unlikely and fails loudly.
        base = free_port()
        if base > 65000:
            base -= 1000
        stack = Program(
            [sys.executable, ROOT / "deploy/local/up.py", "--base-port", base],
            stdout=subprocess.PIPE,
        )
        self.addCleanup(stack.stop)
        lines = []
        while not lines or not lines[-1].startswith("OpenAI"):
            line = stack.process.stdout.readline().decode()
            self.assertTrue(line, stack.output())
            lines.append(line)
        gateway, prometheus = (f"http://127.0.0.1:{base + i}" for i in (0, 1))
        body = {"model": "smollm2", "prompt": "One, two,", "max_tokens": 4}
        answer = wait_until("an answer", lambda: post(gateway + "/v1/completions", body))
        self.assertEqual(answer["usage"]["completion_tokens"], 4)

        def value(expression: str) -> float:
            query = urllib.parse.urlencode({"query": expression})
            return float(
                json.loads(get(f"{prometheus}/api/v1/query?{query}"))["data"]["result"][0]["value"][1]
            )

        def scraped():
            try:
                return value("count(skim_build_info)") == 2 and value("sum(skim_generation_tokens_total)") >= 4
            except IndexError:
                return False

        wait_until("both are scraped", scraped, 30)
        self.assertEqual(stack.stop(90), 0)


if __name__ == "__main__":
    unittest.main()
