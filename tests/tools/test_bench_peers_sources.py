"""What is read from others: their programs' output, their servers' events, their files."""

import json
import sys
import tempfile
import threading
import unittest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest import mock

import tool_path  # noqa: F401
import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from gguf.quants import dequantize, quantize

from bench_peers import installs, llama_cpp_peer, processes
from bench_peers.errors import BenchError, NotServed
from bench_peers.gguf_files import check_same_model, gguf_file
from bench_peers.openai_peer import OpenAiPeer, read_stream
from bench_peers.peer import Setup
from bench_peers.skim_peer import SkimPeer, ready_address


class Scratch(unittest.TestCase):
    def setUp(self) -> None:
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.root = Path(scratch.name)
        self.log = self.root / "log"


class LlamaCpp(unittest.TestCase):
    def test_its_times_become_samples(self) -> None:
        def line(streams: int, decoded: int, prompt_s: float, decode_s: float) -> str:
            facts = {"n_kv_max": 10, "pl": streams, "tg": decoded}
            return json.dumps({**facts, "t_pp": prompt_s, "t_tg": decode_s})

        noise = "llama: loading\n{not json\n"
        short = noise + "\n".join([line(1, 127, 0.5, 1.27), noise, line(16, 127, 3.0, 1.0)])
        samples = llama_cpp_peer.samples_of(
            llama_cpp_peer.parse_lines(short),
            llama_cpp_peer.parse_lines(line(1, 1, 4.0, 0.1)),
        )
        self.assertAlmostEqual(samples["decode1_tokens_per_s"][0], 100)
        del samples["decode1_tokens_per_s"]
        self.assertEqual(
            samples,
            {"ttft512_ms": [500], "ttft4096_ms": [4000], "batch16_tokens_per_s": [16 * 128 / 4]},
        )


class SkimDaemon(Scratch):
    def test_it_holds_the_measured_weights_and_caches_no_prefixes(self) -> None:
        setup = Setup(self.root, 2, 2, self.root, self.root, 100)
        peer = SkimPeer(setup, Path("skimd"), self.root, ["--kv-cache", "2GiB"])
        command = [str(part) for part in peer.daemon("int8")]
        self.assertIn("--weights int8", " ".join(command))
        self.assertIn("--no-prefix-cache", command)
        self.assertEqual(command[-2:], ["--kv-cache", "2GiB"])


class OpenAiEvents(unittest.TestCase):
    USAGE = {"prompt_tokens": 5, "completion_tokens": 3}

    def lines(self, *events: dict) -> list[tuple[bytes, float]]:
        texts = [f"data: {json.dumps(event)}\n".encode() for event in events]
        return [(line, float(i)) for i, line in enumerate([b": hello\n", *texts])] + [
            (b"\n", 98.0),
            (b"data: [DONE]\n", 99.0),
        ]

    def test_tokens_are_timed_by_their_events_and_counted_by_the_server(self) -> None:
        token = {"choices": [{"text": ""}]}
        stream = read_stream(self.lines(token, token, {"choices": [], "usage": self.USAGE}))
        self.assertEqual((stream.first_token_s, stream.last_token_s), (1, 2))
        self.assertEqual((stream.prompt_tokens, stream.generated_tokens), (5, 3))

    def test_without_usage_or_tokens_there_is_nothing_to_measure(self) -> None:
        for events in ([{"choices": [{"text": "a"}]}], [{"usage": self.USAGE}], []):
            with self.subTest(events), self.assertRaisesRegex(BenchError, "usage"):
                read_stream(self.lines(*events))

    def test_an_error_in_the_stream_is_told(self) -> None:
        with self.assertRaisesRegex(BenchError, "out of memory"):
            read_stream(self.lines({"error": "out of memory"}))


class OpenAiServer(BaseHTTPRequestHandler):
    """Answers at once with the tokens asked for; lists one model."""

    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(json.dumps({"data": [{"id": "tiny"}]}))

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if asked["model"] != "tiny" or not asked["ignore_eos"] or not asked["stream"]:
            self.send_error(400, "not what was expected")
            return
        usage = {"prompt_tokens": len(asked["prompt"]), "completion_tokens": asked["max_tokens"]}
        events = [{"choices": [{"text": "x"}]}] * asked["max_tokens"] + [{"usage": usage}]
        self._answer("".join(f"data: {json.dumps(event)}\n\n" for event in events))

    def _answer(self, text: str) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())


class PatientServer(ThreadingHTTPServer):
    request_queue_size = 64  # all streams connect at once


class OpenAiUrl(Scratch):
    def peer(self, url: str) -> OpenAiPeer:
        setup = Setup(self.root, 1, 1, self.root / "gguf", self.root / "model", vocabulary=500)
        return OpenAiPeer(setup, url, "openai", "bf16", model=None)

    def test_a_server_is_visited(self) -> None:
        server = PatientServer(("127.0.0.1", 0), OpenAiServer)
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        peer = self.peer(f"http://127.0.0.1:{server.server_port}/v1/")
        self.assertEqual(peer.prepare("bf16"), "(model tiny)")
        samples = peer.visit("bf16", seed=1)
        self.assertEqual(len(samples["batch16_tokens_per_s"]), 1)

    def test_a_server_that_is_not_there_is_a_sentence(self) -> None:
        with self.assertRaisesRegex(BenchError, "cannot reach http://127.0.0.1:1/v1/models"):
            self.peer("http://127.0.0.1:1").prepare("bf16")


class SkimLine(unittest.TestCase):
    def test_the_address_is_found(self) -> None:
        line = "ready grpc=127.0.0.1:5 metrics=127.0.0.1:6"
        self.assertEqual(ready_address(line), "127.0.0.1:5")

    def test_anything_else_is_refused(self) -> None:
        for line in ("", "ready", "ready metrics=a:1", "error grpc=a:1"):
            with self.subTest(line), self.assertRaises(BenchError):
                ready_address(line)


class Processes(Scratch):
    def python(self, code: str) -> list[str]:
        return [sys.executable, "-c", code]

    def test_a_failure_is_told_with_its_last_words(self) -> None:
        code = "import sys; print('so sad', file=sys.stderr); sys.exit(3)"
        with self.assertRaisesRegex(BenchError, r"thing failed \(3\).*so sad"):
            processes.output_of(self.python(code), self.log, 60, "thing")

    def test_complaints_on_stdout_are_told_too(self) -> None:
        with self.assertRaisesRegex(BenchError, "no such header"):
            processes.output_of(
                self.python("print('no such header'); raise SystemExit(1)"), self.log, 60
            )

    def test_what_hangs_is_ended(self) -> None:
        code = "import time; print(1, flush=True); time.sleep(1000)"
        with self.assertRaisesRegex(BenchError, "more than 0 s"):
            processes.output_of(self.python(code), self.log, 0.3, "thing")

    def test_what_is_not_installed_is_told(self) -> None:
        with self.assertRaisesRegex(BenchError, "cannot start /no/such: No such file"):
            processes.output_of(["/no/such"], self.log, 60)

    def test_a_daemon_that_ends_while_starting_is_told(self) -> None:
        with self.assertRaisesRegex(BenchError, "d ended while starting"):
            with processes.running(self.python("pass"), self.log) as child:
                processes.first_line(child, self.log, 60, "d")

    def test_a_daemon_is_ended_on_leaving(self) -> None:
        code = "import time; print('ready', flush=True); time.sleep(1000)"
        with processes.running(self.python(code), self.log) as child:
            self.assertEqual(processes.first_line(child, self.log, 60, "d"), "ready")
        self.assertIsNotNone(child.returncode)

    def test_a_workers_answer_is_its_last_line(self) -> None:
        def answer(text: str) -> dict:
            return processes.worker_output(self.python(f"print({text!r})"), self.log, 60, "w")

        self.assertEqual(answer('noise\n{"a": [1]}\n'), {"a": [1]})
        with self.assertRaisesRegex(NotServed, "no int8"):
            answer('{"not_served": "no int8"}')
        with self.assertRaisesRegex(BenchError, "broken"):
            answer('{"error": "broken"}')
        with self.assertRaisesRegex(BenchError, "did not end with JSON"):
            answer("noise")


class Installs(Scratch):
    def test_an_unreachable_index_is_a_sentence(self) -> None:
        def no_network(command: list, *args, **kwargs) -> str:
            if "pip" in command:
                raise BenchError("pip failed (1)")
            return ""

        with mock.patch.object(installs, "output_of", no_network):
            with self.assertRaisesRegex(BenchError, "requirements.txt lists.*network up"):
                installs.python_environment("client", "requirements.txt", self.root)

    def test_what_is_installed_is_left_alone_until_the_list_changes(self) -> None:
        with mock.patch.object(installs, "output_of") as calls:
            calls.side_effect = lambda *args: (self.root / "client").mkdir(exist_ok=True)
            for _ in range(2):
                installs.python_environment("client", "requirements.txt", self.root)
            self.assertEqual(calls.call_count, 2)  # venv and pip, once
            (self.root / "client" / "requirements.installed").write_text("older")
            installs.python_environment("client", "requirements.txt", self.root)
            self.assertEqual(calls.call_count, 4)

    def test_every_requirement_is_pinned(self) -> None:
        for file in installs.HERE.glob("requirements*.txt"):
            lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
            self.assertTrue(lines)
            for line in lines:
                package, version = line.split("==")
                self.assertEqual(installs.pinned_version(file.name, package), version)


class GgufFiles(Scratch):
    def setUp(self) -> None:
        super().setUp()
        random = np.random.default_rng(1)
        self.weights = random.normal(size=(8, 64)).astype(np.float32)
        self.norm = random.normal(size=64).astype(np.float32)
        self.source = self.root / "Tiny.Q8_0.gguf"
        writer = GGUFWriter(self.source, "llama")
        writer.add_name("Tiny")
        writer.add_token_list(["a", "b"])
        q8 = GGMLQuantizationType.Q8_0
        for name in ("token_embd.weight", "blk.0.ffn_up.weight"):
            writer.add_tensor(name, quantize(self.weights, q8), raw_dtype=q8)
        writer.add_tensor("output_norm.weight", self.norm)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        bf16 = GGMLQuantizationType.BF16
        served = quantize(dequantize(quantize(self.weights, q8), q8), bf16)
        self.served = dequantize(served, bf16)  # what Skim computes with

    def tensors(self, flavour: str) -> dict:
        reader = GGUFReader(gguf_file(flavour, self.source, self.root))
        self.assertEqual(reader.get_field("general.name").contents(), "Tiny")
        self.assertEqual(reader.get_field("tokenizer.ggml.tokens").contents(), ["a", "b"])
        return {tensor.name: tensor for tensor in reader.tensors}

    def test_bf16_and_f16_hold_just_what_skim_serves(self) -> None:
        for flavour in ("bf16", "f16"):
            tensors = self.tensors(flavour)
            tensor = tensors["blk.0.ffn_up.weight"]
            self.assertEqual(tensor.tensor_type.name, flavour.upper())
            # f16 has more digits than bf16 but less range; these values are far from its ends.
            np.testing.assert_allclose(
                dequantize(tensor.data, tensor.tensor_type), self.served, rtol=0, atol=6e-8
            )
            np.testing.assert_array_equal(tensors["output_norm.weight"].data, self.norm)

    def test_the_quantised_ones_are_near_and_int4_keeps_the_embedding_at_8_bits(self) -> None:
        for flavour, share in (("q8_0", 1 / 127), ("q4_0", 1 / 8)):
            tensors = self.tensors(flavour)
            self.assertEqual(tensors["token_embd.weight"].tensor_type.name, "Q8_0")
            tensor = tensors["blk.0.ffn_up.weight"]
            self.assertEqual(tensor.tensor_type.name, flavour.upper())
            error = np.abs(dequantize(tensor.data, tensor.tensor_type) - self.served)
            self.assertLess(error.max(), np.abs(self.served).max() * share)

    def test_a_complete_file_is_left_alone_and_a_cut_one_is_made_again(self) -> None:
        path = gguf_file("bf16", self.source, self.root)
        whole, written = path.read_bytes(), path.stat().st_mtime_ns
        self.assertEqual(gguf_file("bf16", self.source, self.root).stat().st_mtime_ns, written)
        path.write_bytes(whole[:-1])
        self.assertEqual(gguf_file("bf16", self.source, self.root).read_bytes(), whole)

    def test_another_model_in_skims_directory_is_refused(self) -> None:
        model = self.root / "model"
        model.mkdir()
        with self.assertRaisesRegex(BenchError, "was not made by"):
            check_same_model(self.source, "abc", model)
        (model / "skim_stamp.json").write_text('{"made_from": {"source_sha256": "abc"}}')
        check_same_model(self.source, "abc", model)
        with self.assertRaisesRegex(BenchError, "was not made from"):
            check_same_model(self.source, "abd", model)


if __name__ == "__main__":
    unittest.main()
