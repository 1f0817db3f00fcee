"""One visit to a running skimd: skim_worker STUBS ADDRESS WEIGHTS SEED"""

import asyncio
import sys
import time
from collections.abc import Sequence

import grpc

from bench_peers.errors import BenchError, NotServed
from bench_peers.worker import run_worker
from bench_peers.works import CONTEXT_TOKENS, Prompts, Samples, Stream, visit

sys.path.insert(0, sys.argv[1])

from skim.v1 import inference_pb2 as pb  # noqa: E402  (generated, see above)

SERVICE = "/skim.v1.Inference/"
CALL_LIMIT_S = 300


def main() -> Samples:
    address, weights, seed = sys.argv[2], sys.argv[3], int(sys.argv[4])
    loop = asyncio.new_event_loop()
    channel = loop.run_until_complete(_open(address))
    wanted = pb.WeightFormat.Value(f"WEIGHT_FORMAT_{weights.upper()}")
    try:
        model = loop.run_until_complete(_model(channel))
        check_serves(model, wanted, weights)
        client = Client(loop, channel, wanted, is_default=wanted == model.weight_formats[0])
        return visit(client.run, Prompts(seed, model.vocabulary))
    except grpc.RpcError as error:
        raise BenchError(f"skimd answered {error.code().name}: {error.details()}") from error
    finally:
        loop.run_until_complete(channel.close())


async def _open(address: str) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(address)


async def _model(channel: grpc.aio.Channel) -> pb.GetModelResponse:
    call = channel.unary_unary(
        SERVICE + "GetModel",
        request_serializer=pb.GetModelRequest.SerializeToString,
        response_deserializer=pb.GetModelResponse.FromString,
    )
    return await call(pb.GetModelRequest(), timeout=CALL_LIMIT_S)


def check_serves(model: pb.GetModelResponse, wanted: int, name: str) -> None:
    if wanted not in model.weight_formats:
        served = ", ".join(
            pb.WeightFormat.Name(number).removeprefix("WEIGHT_FORMAT_").lower()
            for number in model.weight_formats
        )
        raise NotServed(f"this skimd serves {served} weights, not {name}")
    if model.max_context < CONTEXT_TOKENS:
        raise BenchError(
            f"skimd's context of {model.max_context} tokens is below {CONTEXT_TOKENS}"
        )


class Client:
    """Leaves all messages but the last undecoded: on a machine whose cores all compute, a busy
    client would slow down what it measures."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        channel: grpc.aio.Channel,
        weights: int,
        is_default: bool,
    ) -> None:
        self._loop = loop
        self._weights = None if is_default else weights
        self._generate = channel.unary_stream(
            SERVICE + "Generate",
            request_serializer=pb.GenerateRequest.SerializeToString,
            response_deserializer=None,
        )

    def run(self, prompts: Sequence[list[int]], output_tokens: int) -> Sequence[Stream]:
        return self._loop.run_until_complete(self._run_all(prompts, output_tokens))

    async def _run_all(self, prompts: Sequence[list[int]], output_tokens: int) -> list[Stream]:
        requests = [self._request(prompt, output_tokens) for prompt in prompts]
        start = time.perf_counter()
        return list(await asyncio.gather(*(self._stream(r, start) for r in requests)))

    def _request(self, prompt: list[int], output_tokens: int) -> pb.GenerateRequest:
        return pb.GenerateRequest(
            token_ids=pb.TokenIds(ids=prompt),
            sampling=pb.Sampling(temperature=0, max_tokens=output_tokens, ignore_eos=True),
            output=pb.Output(text=False, token_ids=True),
            weights=self._weights,
        )

    async def _stream(self, request: pb.GenerateRequest, start: float) -> Stream:
        times: list[float] = []
        message = b""
        async for message in self._generate(request, timeout=CALL_LIMIT_S):
            times.append(time.perf_counter() - start)
        if not times:
            raise BenchError("skimd ended a stream without a message")
        final = pb.GenerateResponse.FromString(message).final
        usage = final.usage
        if usage.cached_tokens:
            raise BenchError(f"{usage.cached_tokens} prompt tokens came from the prefix cache")
        # The final message brings no token and follows the last one at once.
        last = times[max(0, len(times) - 2)]
        return Stream(times[0], last, usage.prompt_tokens, usage.generated_tokens)


if __name__ == "__main__":
    run_worker(main)
