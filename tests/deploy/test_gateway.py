"""The SMG gateway (PyPI `smg`) in front of two daemons: OpenAI's HTTP API outside,
VllmEngine inside, and what happens when a client or a daemon goes away."""

import concurrent.futures
import contextlib
import http.client
import json
import os
import signal
import sys
import tempfile
import threading
import unittest
import urllib.error

from programs import Program, Skimd, free_port, get, post, wait_until

NAME = "smollm2"
PROMPT = "The three primary colours are"


class Gateway(Program):
    """Without the model's files: it has the tokenizer from the daemons."""

    def __init__(self, workers, policy="round_robin"):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.directory = tempfile.TemporaryDirectory()
        super().__init__(
            [sys.executable, "-m", "smg", "launch", "--worker-urls"]
            + [f"grpc://{worker}" for worker in workers]
            + ["--host", "127.0.0.1", "--port", self.port, "--prometheus-port", free_port()]
            + ["--policy", policy, "--health-check-interval-secs", "1"]
            + ["--health-failure-threshold", "1", "--health-success-threshold", "1"]
            + ["--retry-initial-backoff-ms", "20", "--retry-max-backoff-ms", "200"],
            cwd=self.directory.name,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
        wait_until("the workers are ready", lambda: len(self.ready()) == len(workers))
        # The tokenizer arrives a little later.
        wait_until("a first answer", lambda: self.complete(max_tokens=1))

    def ready(self) -> list[dict]:
        workers = json.loads(get(self.url + "/workers"))["workers"]
        return [worker for worker in workers if worker["is_healthy"]]

    def complete(self, prompt=PROMPT, **options) -> dict:
        return post(self.url + "/v1/completions", {"model": NAME, "prompt": prompt, **options})

    def chat(self, text, **options) -> dict:
        messages = [{"role": "user", "content": text}]
        return post(
            self.url + "/v1/chat/completions", {"model": NAME, "messages": messages, **options}
        )

    def stop(self, timeout_s: float = 60) -> int:
        code = super().stop(timeout_s)
        self.directory.cleanup()
        return code

    @contextlib.contextmanager
    def stream(self, path: str, body: dict):
        """The events of an answer, as they come; at the end the connection is closed."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        connection.request(
            "POST",
            path,
            json.dumps({"model": NAME, "stream": True, **body}),
            {"Content-Type": "application/json"},
        )
        response = connection.getresponse()
        if response.status != 200:
            raise AssertionError(f"{response.status} {response.read()}")

        def events():
            for line in response:
                if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
                    yield json.loads(line[len(b"data: ") :])

        try:
            yield events()
        finally:
            response.close()
            connection.close()


def text_of(answer: dict) -> str:
    return answer["choices"][0]["text"]


class SavingsTest(unittest.TestCase):
    def test_a_port_with_savings_is_a_model_of_its_own(self):
        daemon = Skimd("--weights", "bf16,int8", "--worker-listen", "127.0.0.1:0/int8")
        self.addCleanup(daemon.kill)
        self.assertEqual([worker.partition("/")[2] for worker in daemon.workers], ["", "int8"])
        gateway = Gateway([worker.partition("/")[0] for worker in daemon.workers])
        self.addCleanup(gateway.stop)
        models = {model["id"] for model in json.loads(get(gateway.url + "/v1/models"))["data"]}
        self.assertEqual(models, {NAME, NAME + ":int8"})

        def rows_of_int8() -> float:
            return daemon.metrics()['skim_rows_total{format="int8"}']

        before = rows_of_int8()
        gateway.complete(max_tokens=4)
        self.assertEqual(rows_of_int8(), before)
        wait_until("an answer", lambda: gateway.complete(model=NAME + ":int8", max_tokens=4))
        self.assertGreater(rows_of_int8(), before)


class GatewayTest(unittest.TestCase):
    def setUp(self):
        self.daemons = [Skimd() for _ in range(2)]
        for daemon in self.daemons:
            self.addCleanup(daemon.kill)
        self.gateway = Gateway([daemon.worker for daemon in self.daemons])
        self.addCleanup(self.gateway.stop)

    def served(self) -> list[float]:
        """Sequences that each daemon has ended."""
        return [
            sum(v for k, v in d.metrics().items() if k.startswith("skim_requests_finished_total"))
            for d in self.daemons
        ]

    def assert_idle(self, daemons=None):
        for daemon in daemons or self.daemons:
            wait_until("every page is given back", daemon.is_idle, 20)

    def test_openai_calls(self):
        gateway = self.gateway
        with self.subTest("a completion is the same whichever daemon answers"):
            before = self.served()
            texts = {
                text_of(gateway.complete(temperature=0, max_tokens=24)) for _ in range(4)
            }
            self.assertEqual(len(texts), 1)
            self.assertEqual([b - a for a, b in zip(before, self.served())], [2, 2])
        whole = texts.pop()

        with self.subTest("streamed, it is the same text, and the usage is told"):
            body = {"prompt": PROMPT, "temperature": 0, "max_tokens": 24}
            body["stream_options"] = {"include_usage": True}
            with gateway.stream("/v1/completions", body) as answer:
                events = list(answer)
            pieces = [e["choices"][0]["text"] for e in events if e["choices"]]
            self.assertEqual("".join(pieces), whole)
            self.assertGreater(len(pieces), 4)
            usage = next(e["usage"] for e in events if e.get("usage"))
            self.assertEqual(usage["completion_tokens"], 24)

        with self.subTest("a stop string ends the text before it"):
            stop = whole.split()[3]
            answer = gateway.complete(temperature=0, max_tokens=24, stop=[stop])
            self.assertEqual(text_of(answer), whole[: whole.index(stop)])
            self.assertEqual(answer["choices"][0]["finish_reason"], "stop")

        with self.subTest("a seed decides the text"):
            sampled = [
                text_of(gateway.complete(temperature=1, max_tokens=12, seed=seed))
                for seed in (7, 7, 8, 9)
            ]
            self.assertEqual(sampled[0], sampled[1])
            self.assertGreater(len(set(sampled)), 1)

        with self.subTest("n choices"):
            answer = gateway.complete(temperature=1, max_tokens=8, seed=7, n=3)
            self.assertEqual(sorted(c["index"] for c in answer["choices"]), [0, 1, 2])
            self.assertEqual(answer["usage"]["completion_tokens"], 24)

        with self.subTest("a chat, whole and streamed, with log-probabilities"):
            options = {"temperature": 0, "max_tokens": 16}
            answer = gateway.chat("Name three colours.", logprobs=True, top_logprobs=2, **options)
            choice = answer["choices"][0]
            self.assertEqual(len(choice["logprobs"]["content"]), 16)
            for token in choice["logprobs"]["content"]:
                # Greedy: the token is the likeliest.
                self.assertEqual(token["logprob"], token["top_logprobs"][0]["logprob"])
                self.assertEqual(len(token["top_logprobs"]), 2)
            messages = [{"role": "user", "content": "Name three colours."}]
            with gateway.stream(
                "/v1/chat/completions", {"messages": messages, **options}
            ) as answer:
                events = list(answer)
            pieces = [
                e["choices"][0]["delta"].get("content") or "" for e in events if e["choices"]
            ]
            self.assertEqual("".join(pieces), choice["message"]["content"])

        with self.subTest("what is not served is refused by name"):
            request = {"temperature": 0, "max_tokens": 4, "response_format": {"type": "json_object"}}
            with self.assertRaises(urllib.error.HTTPError) as refusal:
                gateway.chat("Name three colours.", **request)
            with refusal.exception as error:
                self.assertEqual(error.code, 501)
                self.assertIn("output is not constrained", error.read().decode())
        self.assert_idle()

    def test_cache_aware_routing_meets_the_prefix_cache_where_round_robin_does_not(self):
        def hit_share(gateway, subject) -> float:
            before = [daemon.metrics() for daemon in self.daemons]
            for number in range(6):
                # Two questions about one long text.
                story = f"Story {number} about {subject}. " + "It went on and on. " * 30
                for question in ("Who?", "Why?"):
                    gateway.complete(prompt=story + question, max_tokens=1)
            grown = {
                name: sum(
                    daemon.metrics()[name] - then[name]
                    for daemon, then in zip(self.daemons, before)
                )
                for name in ("skim_prefix_cache_hits_total", "skim_prefix_cache_queries_total")
            }
            return grown["skim_prefix_cache_hits_total"] / grown["skim_prefix_cache_queries_total"]

        cache_aware = Gateway([daemon.worker for daemon in self.daemons], "cache_aware")
        self.addCleanup(cache_aware.stop)
        self.assertLess(hit_share(self.gateway, "the sea"), 0.1)
        self.assertGreater(hit_share(cache_aware, "the hills"), 0.4)

    def test_a_gateway_that_comes_later_is_told_what_the_daemons_have_cached(self):
        stories = [f"Story {n} about the moon. " + "It went on and on. " * 120 for n in range(8)]
        for story in stories:
            self.gateway.complete(prompt=story + "Who?", max_tokens=1)
        self.assert_idle()
        later = Gateway([daemon.worker for daemon in self.daemons], "cache_aware")
        self.addCleanup(later.stop)
        wait_until(
            "both subscriptions",
            lambda: later.output().count("KV event stream connected") == len(self.daemons),
        )
        before = [daemon.metrics() for daemon in self.daemons]
        # First those of one daemon: taking turns would hit half of them.
        for story in stories[::2] + stories[1::2]:
            later.complete(prompt=story + "Why?", max_tokens=1)
        hits, queries = (
            sum(d.metrics()[name] - then[name] for d, then in zip(self.daemons, before))
            for name in ("skim_prefix_cache_hits_total", "skim_prefix_cache_queries_total")
        )
        self.assertGreater(hits / queries, 0.85)

    def test_a_client_that_goes_frees_its_pages(self):
        body = {"prompt": PROMPT, "max_tokens": 4000, "ignore_eos": True}
        with self.gateway.stream("/v1/completions", body) as events:
            next(events)
            self.assertFalse(all(daemon.is_idle() for daemon in self.daemons))
        self.assert_idle()
        cancelled = sum(
            d.metrics()['skim_requests_finished_total{reason="cancelled"}'] for d in self.daemons
        )
        self.assertEqual(cancelled, 1)

    def answers_while(self, disturb):
        """Calls from 6 clients, 4 each; `disturb` runs once some have been answered."""
        started = threading.Semaphore(0)

        def client(number: int) -> list[str]:
            texts = []
            for i in range(4):
                texts.append(
                    text_of(
                        self.gateway.complete(
                            prompt=f"{PROMPT} ({number}, {i})",
                            temperature=0,
                            max_tokens=40,
                            ignore_eos=True,
                        )
                    )
                )
                started.release()
            return texts

        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            clients = [pool.submit(client, number) for number in range(6)]
            for _ in range(4):
                started.acquire(timeout=60)
            disturb()
            texts = [text for one in clients for text in one.result()]  # raises what failed
        self.assertEqual(len(texts), 24)
        self.assertTrue(all(texts))

    def test_a_daemon_that_dies_is_stood_in_for(self):
        self.answers_while(self.daemons[0].kill)
        self.assert_idle(self.daemons[1:])
        wait_until("the gateway knows", lambda: len(self.gateway.ready()) == 1, 30)
        self.assertTrue(text_of(self.gateway.complete(max_tokens=4)))

    def test_sigterm_under_load_is_seen_by_no_client(self):
        self.answers_while(lambda: self.daemons[0].process.send_signal(signal.SIGTERM))
        self.assertEqual(self.daemons[0].process.wait(60), 0)
        self.assert_idle(self.daemons[1:])


if __name__ == "__main__":
    unittest.main()
