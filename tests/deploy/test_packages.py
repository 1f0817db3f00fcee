"""What is installed from deploy/: unit, container file, manifests, chart. Tools that this machine
lacks are not asked."""

import os
import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

import kubernetes_validate
import yaml

from programs import BIN, ROOT

DEPLOY = ROOT / "deploy"
KUBERNETES = "1.31"
# Resources of operators; their schemas are not Kubernetes' own.
FOREIGN = {"ServiceMonitor", "PrometheusRule", "ScaledObject"}


def run(*command, **options) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)
    if done.returncode:
        raise AssertionError(f"{command}: {done.stdout}{done.stderr}")
    return done.stdout


def helm() -> Path | None:
    own = ROOT / "build/helm/bin/helm"
    return own if own.exists() else shutil.which("helm")


def documents(text: str) -> dict[str, dict]:
    """Kind -> resource; a chart or a kustomization has one of each."""
    found = [document for document in yaml.safe_load_all(text) if document]
    kinds = {document["kind"]: document for document in found}
    assert len(kinds) == len(found)
    return kinds


@unittest.skipUnless(shutil.which("systemd-analyze"), "systemd-analyze is not installed")
class UnitTest(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.unit = Path(directory.name, "skimd.service")
        text = (DEPLOY / "systemd/skimd.service").read_text()
        self.unit.write_text(text.replace("/usr/bin/skimd", str(BIN / "skimd")))

    def test_it_is_valid(self):
        done = subprocess.run(
            ["systemd-analyze", "verify", self.unit], capture_output=True, text=True
        )
        self.assertEqual((done.returncode, done.stdout + done.stderr), (0, ""))

    def test_it_exposes_little(self):
        # 1.4 of 10 with systemd 252.
        run("systemd-analyze", "security", "--offline=true", "--threshold=15", self.unit)

    def test_it_waits_for_a_drain(self):
        wait_s = re.search(r"^TimeoutStopSec=(\d+)$", self.unit.read_text(), re.MULTILINE)
        drain_s = re.search(r"--drain-timeout TIME.*?default (\d+)s", run(BIN / "skimd", "--help"), re.S)
        self.assertGreater(int(wait_s.group(1)), int(drain_s.group(1)))


class ContainerTest(unittest.TestCase):
    @unittest.skipUnless(shutil.which("dpkg"), "not a Debian machine")
    def test_it_has_the_libraries_that_the_programs_are_linked_to(self):
        needed = set()
        for program in ("skimd", "skim"):
            for path in re.findall(r"=> (/\S+)", run("ldd", BIN / program)):
                # dpkg knows a file by the one of its names that is in the package.
                for name in {path, os.path.realpath(path), path.removeprefix("/usr")}:
                    done = subprocess.run(["dpkg", "-S", name], capture_output=True, text=True)
                    if done.returncode == 0:
                        needed.add(done.stdout.split(":")[0])
        text = (DEPLOY / "container/Containerfile").read_text()
        listed = set(re.findall(r"\b(?:lib[\w+.-]+|zlib1g)\b(?!/)", text.split("FROM")[2]))
        base = {"libc6", "libgcc-s1", "libsystemd0", "libstdc++6", "zlib1g"}
        self.assertEqual(needed - base, {name for name in listed if name not in base})


class ManifestTest(unittest.TestCase):
    def check(self, kinds: dict[str, dict]):
        """What holds however the manifests were made."""
        for kind, resource in kinds.items():
            if kind not in FOREIGN:
                kubernetes_validate.validate(resource, KUBERNETES, strict=True)
        pod = kinds["Deployment"]["spec"]["template"]
        selector = kinds["Deployment"]["spec"]["selector"]["matchLabels"]
        self.assertTrue(selector.items() <= pod["metadata"]["labels"].items())
        self.assertEqual(kinds["Service"]["spec"]["selector"], selector)
        for kind, path in (("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
            if kind in kinds:
                self.assertEqual(kinds[kind]["spec"][path]["matchLabels"], selector)
        container = pod["spec"]["containers"][0]
        names = {port["name"] for port in container["ports"]}
        self.assertEqual({port["targetPort"] for port in kinds["Service"]["spec"]["ports"]}, names)
        # The grace covers what comes before SIGTERM and the drain behind it.
        drain_s = int(
            next(a for a in container["args"] if a.startswith("--drain-timeout=")).split("=")[1][:-1]
        )
        before = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command")
        before_s = int(before[1]) if before else 0
        self.assertGreaterEqual(pod["spec"]["terminationGracePeriodSeconds"], before_s + drain_s)
        # skimd takes the arguments: they are right but for the model, which is not here.
        arguments = [a.replace("--model=/model", "--model=/nowhere") for a in container["args"]]
        arguments = [a for a in arguments if "/secrets/" not in a]
        address = r"^(--(?:worker-)?listen|--metrics)=[^/]*"
        arguments = [re.sub(address, r"\1=127.0.0.1:0", a) for a in arguments]
        done = subprocess.run([BIN / "skimd", *arguments], capture_output=True, text=True)
        self.assertEqual(done.returncode, 1)
        self.assertIn("/nowhere", done.stderr)

    @unittest.skipUnless(shutil.which("kubectl"), "kubectl is not installed")
    def test_the_kustomization(self):
        self.check(documents(run("kubectl", "kustomize", DEPLOY / "kustomize")))

    def render(self, values: Path, *flags) -> str:
        return run(helm(), "template", "r", DEPLOY / "helm/skim", "-f", values, *flags)

    @unittest.skipUnless(helm(), "helm is not installed")
    def test_the_chart_with_every_example(self):
        kinds = {}
        examples = sorted((DEPLOY / "helm/skim/examples").glob("*.yaml"))
        for example in examples:
            with self.subTest(example.name):
                run(helm(), "lint", "--strict", DEPLOY / "helm/skim", "-f", example)
                kinds[example.stem] = documents(self.render(example))
                self.check(kinds[example.stem])
        self.assertEqual(set(kinds), {"claim", "gateway", "tls"})
        self.assertEqual(set(kinds["gateway"]) & FOREIGN, FOREIGN)
        container = kinds["gateway"]["Deployment"]["spec"]["template"]["spec"]["containers"][0]
        workers = [a for a in container["args"] if a.startswith("--worker-listen=")]
        addresses = ["0.0.0.0:50052", "0.0.0.0:50053/fast+int8"]
        self.assertEqual(workers, [f"--worker-listen={address}" for address in addresses])
        rules = yaml.safe_load((DEPLOY / "prometheus/skim.rules.yml").read_text())
        self.assertEqual(kinds["gateway"]["PrometheusRule"]["spec"], rules)

    @unittest.skipUnless(helm(), "helm is not installed")
    def test_the_chart_refuses_bad_values_with_a_sentence(self):
        example = DEPLOY / "helm/skim/examples/claim.yaml"
        for flags, sentence in (
            (["--set", "model.existingClaim="], "model: set exactly one of"),
            (["--set", "model.download.image=x"], "model: set exactly one of"),
            (["--set", "terminationGracePeriodSeconds=20"], "20 is less than preStopSeconds"),
            (["--set", "args.drain-timeout=2min"], "drain-timeout"),
            (["--set", "args.listen=0.0.0.0:1"], "args"),
            (["--set", "replica=3"], "replica"),
            (["--set", "ports.grpc=70000"], "grpc"),
            (["--set", "worker.ports[0].savings=fast"], "port"),
            (["--set", "worker.ports[0].port=1,worker.ports[0].savings=a/b"], "savings"),
            (
                ["--set", "autoscaling.enabled=true,autoscaling.minReplicas=9"],
                "minReplicas is more than maxReplicas",
            ),
        ):
            with self.subTest(sentence), self.assertRaisesRegex(AssertionError, sentence):
                self.render(example, *flags)


if __name__ == "__main__":
    unittest.main()
