#!/usr/bin/env python3
"""Streams a completion from skimd: how a client of skim.v1 looks in Python.

    pip install -r requirements.txt
    python -m grpc_tools.protoc -I ../../proto --python_out=. --grpc_python_out=. \
        skim/v1/inference.proto
    ./generate.py 127.0.0.1:50051 "The three primary colours are"
"""

import argparse
import sys
import time

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from skim.v1 import inference_pb2 as skim
from skim.v1 import inference_pb2_grpc as skim_grpc

ATTEMPTS = 5


def retry_delay_s(error: grpc.RpcError) -> float | None:
    """How long the server asks us to wait before the same call; None: do not repeat it."""
    if error.code() == grpc.StatusCode.UNAVAILABLE:  # starting, or shutting down
        return 1.0
    status = rpc_status.from_call(error)
    for detail in status.details if status else ():
        info = error_details_pb2.RetryInfo()
        if detail.Unpack(info):  # the queue is full
            return info.retry_delay.ToTimedelta().total_seconds()
    return None


def generate(stub, request, timeout_s: float, cancel_after: int | None):
    """Yields the events of the stream. Repeats the call only while nothing has come of it."""
    end = time.monotonic() + timeout_s
    for attempt in range(1, ATTEMPTS + 1):
        # The deadline travels with the call: overdue work is not computed.
        call = stub.Generate(request, timeout=max(0.0, end - time.monotonic()))
        tokens = 0
        try:
            for response in call:
                yield response
                tokens += len(response.delta.token_ids)
                if cancel_after is not None and tokens >= cancel_after:
                    call.cancel()  # its memory is free a step later
                    return
            return
        except grpc.RpcError as error:
            delay_s = retry_delay_s(error)
            if tokens or delay_s is None or attempt == ATTEMPTS:
                raise
            time.sleep(delay_s)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("server", help="HOST:PORT")
    parser.add_argument("prompt")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--timeout", type=float, default=60, help="seconds")
    parser.add_argument("--cancel-after", type=int, help="tokens")
    flags = parser.parse_args()

    request = skim.GenerateRequest(
        text=flags.prompt, sampling=skim.Sampling(max_tokens=flags.max_tokens, temperature=0)
    )
    with grpc.insecure_channel(flags.server) as channel:
        stub = skim_grpc.InferenceStub(channel)
        try:
            for response in generate(stub, request, flags.timeout, flags.cancel_after):
                if response.HasField("delta"):
                    print(response.delta.text, end="", flush=True)
                else:
                    reason = skim.FinishReason.Name(response.final.finish_reason)
                    print(f"\n{reason} {response.final.usage.generated_tokens}", file=sys.stderr)
        except grpc.RpcError as error:
            print(f"\n{error.code().name}: {error.details()}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
