"""Prometheus with our configuration, rules and dashboard, against a daemon under load."""

import json
import re
import subprocess
import sys
import tempfile
import unittest
import urllib.parse
from pathlib import Path

from programs import BIN, ROOT, Program, Skimd, free_port, get, wait_until

sys.path.insert(0, str(ROOT / "tools"))

import make_reference  # noqa: E402

DEPLOY = ROOT / "deploy"
PROMETHEUS = ROOT / "build/prometheus/bin"


def promtool(*arguments, **options) -> str:
    done = subprocess.run(
        [PROMETHEUS / "promtool", *arguments], capture_output=True, text=True, **options
    )
    if done.returncode:
        raise AssertionError(done.stdout + done.stderr)
    return done.stdout


class RulesTest(unittest.TestCase):
    def test_the_files_are_valid(self):
        promtool("check", "config", DEPLOY / "prometheus/prometheus.yml")
        promtool("check", "rules", DEPLOY / "prometheus/skim.rules.yml")

    def test_every_alert_fires_on_what_it_is_for_and_not_without(self):
        promtool("test", "rules", DEPLOY / "prometheus/skim.rules.test.yml")
        rules = (DEPLOY / "prometheus/skim.rules.yml").read_text()
        tests = (DEPLOY / "prometheus/skim.rules.test.yml").read_text()
        alerts = set(re.findall(r"- alert: (\w+)", rules))
        tested = set(re.findall(r"alertname: (\w+)", tests))
        self.assertEqual(alerts - tested, {"SkimInterTokenBudgetBurnsSlowly"})  # as its twin

    def test_every_alert_has_a_place_in_the_guide(self):
        guide = (ROOT / "docs/operations.md").read_text()
        headings = {
            re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")
            for title in re.findall(r"^#+ (.*)$", guide, re.MULTILINE)
        }
        rules = (DEPLOY / "prometheus/skim.rules.yml").read_text()
        for anchor in re.findall(r"runbook: docs/operations\.md#(\S+)", rules):
            self.assertIn(anchor, headings)


class ReferenceTest(unittest.TestCase):
    def test_the_api_reference_tells_what_the_proto_says(self):
        self.assertEqual(
            make_reference.api_reference(make_reference.PROTO.read_text()),
            (ROOT / "docs/api.md").read_text(),
            "run tools/make_reference.py api",
        )


class ScrapeTest(unittest.TestCase):
    """One daemon, one load, one Prometheus; every query against them."""

    @classmethod
    def setUpClass(cls):
        cls.daemon = Skimd("--vllm-metrics")
        cls.addClassCleanup(cls.daemon.kill)
        directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(directory.cleanup)
        config = (DEPLOY / "prometheus/prometheus.yml").read_text()
        config = config.replace("15s", "1s").replace("127.0.0.1:9090", cls.daemon.metrics_address)
        Path(directory.name, "prometheus.yml").write_text(config)
        rules = (DEPLOY / "prometheus/skim.rules.yml").read_text()
        Path(directory.name, "skim.rules.yml").write_text(rules)
        port = free_port()
        cls.url = f"http://127.0.0.1:{port}"
        cls.prometheus = Program(
            [PROMETHEUS / "prometheus", f"--config.file={directory.name}/prometheus.yml"]
            + [f"--storage.tsdb.path={directory.name}/data", f"--web.listen-address=127.0.0.1:{port}"]
        )
        cls.addClassCleanup(cls.prometheus.kill)
        wait_until("prometheus answers", lambda: get(cls.url + "/-/ready"))
        # Rates see the load only as a change from what was scraped before it.
        wait_until("a scrape", lambda: cls.query("skim_build_info"))
        subprocess.run(
            [BIN / "skim-load", "--server", cls.daemon.grpc, "--concurrency", "4"]
            + ["--requests", "60", "--prompt-tokens", "64", "--output-tokens", "24"]
            + ["--shared-prefix", "48", "--malformed-share", "0.2", "--speculation", "lookup"],
            check=True,
            stdout=subprocess.DEVNULL,
        )

    @classmethod
    def query(cls, expression: str) -> list[dict]:
        url = cls.url + "/api/v1/query?" + urllib.parse.urlencode({"query": expression})
        answer = json.loads(get(url))
        return answer["data"]["result"]

    def test_the_exposition_is_clean(self):
        page = get(f"http://{self.daemon.metrics_address}/metrics").decode()
        # The names of others are as they are.
        own = [line for line in page.splitlines() if "vllm:" not in line]
        promtool("check", "metrics", input="\n".join(own) + "\n")
        self.assertIn('vllm:num_requests_waiting{model_name="smollm2",engine="0"}', page)

    def test_every_query_of_the_dashboard_returns_data(self):
        dashboard = json.loads((DEPLOY / "grafana/skim.json").read_text())
        expressions = [
            target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])
        ]
        self.assertGreater(len(expressions), 30)
        for expression in expressions:
            for variable, value in (
                ("$__rate_interval", "30s"),
                ("$job", ".+"),
                ("$instance", ".+"),
            ):
                expression = expression.replace(variable, value)
            with self.subTest(expression):
                wait_until("data", lambda e=expression: self.query(e), 10)

    def test_every_rule_is_evaluated_and_nothing_is_wrong(self):
        groups = json.loads(get(self.url + "/api/v1/rules"))["data"]["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        for rule in rules:
            self.assertEqual(rule["health"], "ok", rule)
            if rule["type"] == "recording":
                self.assertTrue(self.query(rule["name"]), rule["name"])
            else:
                self.assertNotEqual(rule["state"], "firing", rule)

    def test_the_reference_tells_what_is_shown(self):
        page = get(f"http://{self.daemon.metrics_address}/metrics").decode()
        self.assertEqual(
            make_reference.metrics_reference(page),
            (ROOT / "docs/metrics.md").read_text(),
            "run tools/make_reference.py metrics",
        )

    def test_the_metrics_agree_with_the_load(self):
        page = self.daemon.metrics()
        prometheus = wait_until(
            "the last scrape",
            lambda: self.query("sum(skim_generation_tokens_total)")
            and self.query("sum(skim_requests_running) == 0"),
            10,
        )
        self.assertTrue(prometheus)
        finished = page['skim_requests_finished_total{reason="length"}']
        self.assertEqual(page["skim_generation_tokens_total"], 24 * finished)


if __name__ == "__main__":
    unittest.main()
