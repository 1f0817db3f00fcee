"""Triton's own client (PyPI `tritonclient`) against a daemon: whole and streamed answers, many at a
time on one stream, cancelling, refusals."""

import json
import queue
import unittest

import numpy
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from programs import Skimd, wait_until

NAME = "smollm2"
PROMPT = "The three primary colours are"


def tensors(prompt: str, sampling: dict | None = None, **flags) -> list[triton.InferInput]:
    made = []
    texts = {"text_input": prompt}
    if sampling is not None:
        texts["sampling_parameters"] = json.dumps(sampling)
    for name, text in texts.items():
        tensor = triton.InferInput(name, [1], "BYTES")
        tensor.set_data_from_numpy(numpy.array([text.encode()], dtype=object))
        made.append(tensor)
    for name, value in flags.items():
        tensor = triton.InferInput(name, [1], "BOOL")
        tensor.set_data_from_numpy(numpy.array([value]))
        made.append(tensor)
    return made


def text_of(result) -> str:
    return result.as_numpy("text_output")[0].decode()


class TritonTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = Skimd()
        cls.addClassCleanup(cls.daemon.kill)

    def setUp(self):
        self.client = triton.InferenceServerClient(self.daemon.grpc)
        self.addCleanup(self.client.close)
        self.answers = queue.Queue()

    def answer(self):
        """The next (result, error) of the stream."""
        return self.answers.get(timeout=60)

    def start_stream(self):
        self.client.start_stream(lambda result, error: self.answers.put((result, error)))
        self.addCleanup(self.client.stop_stream, cancel_requests=True)

    def whole(self, sampling: dict, **flags):
        flags = {"exclude_input_in_output": True, **flags}
        return self.client.infer(NAME, tensors(PROMPT, sampling, **flags))

    def test_server_and_model_are_described(self):
        self.assertTrue(self.client.is_server_live())
        self.assertTrue(self.client.is_server_ready())
        self.assertTrue(self.client.is_model_ready(NAME))
        self.assertFalse(self.client.is_model_ready("another"))
        self.assertEqual(self.client.get_server_metadata().name, "skim")
        model = self.client.get_model_metadata(NAME)
        self.assertEqual({t.name: t.datatype for t in model.outputs}["text_output"], "BYTES")
        config = self.client.get_model_config(NAME, as_json=True)["config"]
        self.assertEqual(config["model_transaction_policy"], {"decoupled": True})
        self.assertEqual([t["name"] for t in config["input"] if not t.get("optional")], ["text_input"])
        self.assertEqual({t["data_type"] for t in config["input"]}, {"TYPE_STRING", "TYPE_BOOL"})

    def test_a_stream_says_what_the_whole_answer_says(self):
        # Triton's examples quote their numbers.
        sampling = {"temperature": "0", "max_tokens": "24"}
        whole = text_of(self.whole(sampling))
        self.start_stream()
        inputs = tensors(PROMPT, sampling, stream=True, return_num_output_tokens=True)
        self.client.async_stream_infer(
            NAME, inputs, request_id="one", enable_empty_final_response=True
        )
        pieces, tokens, final = [], 0, False
        while not final:
            result, error = self.answer()
            self.assertIsNone(error)
            response = result.get_response()
            self.assertEqual(response.id, "one")
            pieces.append(text_of(result))
            tokens += int(result.as_numpy("num_output_tokens")[0])
            final = response.parameters["triton_final_response"].bool_param
        self.assertEqual("".join(pieces), whole)
        self.assertEqual(tokens, 24)
        self.assertGreater(len(pieces), 4)

    def test_requests_of_one_stream_run_together(self):
        self.start_stream()
        wanted = {str(i): f"{PROMPT} ({i})" for i in range(8)}
        for request_id, prompt in wanted.items():
            inputs = tensors(prompt, {"temperature": 0, "max_tokens": 12}, stream=True)
            self.client.async_stream_infer(NAME, inputs, request_id=request_id)
        texts = dict.fromkeys(wanted, "")
        order, open_requests = [], set(wanted)
        while open_requests:
            result, error = self.answer()
            self.assertIsNone(error)
            response = result.get_response()
            order.append(response.id)
            texts[response.id] += text_of(result)
            if response.parameters["triton_final_response"].bool_param:
                open_requests.remove(response.id)
        # Not one after the other.
        self.assertGreater(sum(a != b for a, b in zip(order, order[1:])), 2 * len(wanted))
        for request_id, prompt in wanted.items():
            inputs = tensors(
                prompt, {"temperature": 0, "max_tokens": 12}, exclude_input_in_output=True
            )
            self.assertEqual(texts[request_id], text_of(self.client.infer(NAME, inputs)))

    def test_outputs_that_are_asked_for(self):
        answer = self.whole(
            {"temperature": 0, "max_tokens": 6, "logprobs": 2, "n": 2},
            return_finish_reason=True,
            return_logprobs=True,
            return_cumulative_logprob=True,
            return_num_input_tokens=True,
            return_num_output_tokens=True,
        )
        self.assertEqual(list(answer.as_numpy("finish_reason")), [b"length"] * 2)
        self.assertEqual(list(answer.as_numpy("num_output_tokens")), [6, 6])
        self.assertGreater(answer.as_numpy("num_input_tokens")[0], 3)
        tokens = json.loads(answer.as_numpy("logprobs")[0])
        self.assertEqual(len(tokens), 6)
        best = [max(t.values(), key=lambda entry: entry["logprob"]) for t in tokens]
        self.assertEqual({entry["rank"] for entry in best}, {1})
        self.assertAlmostEqual(
            float(answer.as_numpy("cumulative_logprob")[0]),
            sum(entry["logprob"] for entry in best),
            places=3,
        )
        self.assertEqual("".join(e["decoded_token"] for e in best), text_of(answer))

    def test_refusals_name_what_is_wrong_and_leave_the_stream_open(self):
        with self.assertRaisesRegex(InferenceServerException, "sampling_parameters.top_p: "):
            self.whole({"top_p": 7})
        self.start_stream()
        self.client.async_stream_infer(NAME, tensors(PROMPT, {"n": 0}), request_id="bad")
        _, error = self.answer()
        self.assertIn("INVALID_ARGUMENT: sampling_parameters.n: ", error.message())
        self.client.async_stream_infer(NAME, tensors(PROMPT, {"max_tokens": 1}), request_id="good")
        result, error = self.answer()
        self.assertIsNone(error)
        self.assertEqual(result.get_response().id, "good")

    def test_a_stream_that_is_cancelled_frees_its_pages(self):
        self.start_stream()
        inputs = tensors(PROMPT, {"max_tokens": 4000, "ignore_eos": True}, stream=True)
        self.client.async_stream_infer(NAME, inputs)
        self.assertIsNone(self.answer()[1])
        self.assertFalse(self.daemon.is_idle())
        self.client.stop_stream(cancel_requests=True)
        wait_until("every page is given back", self.daemon.is_idle, 20)


if __name__ == "__main__":
    unittest.main()
