"""One connection to skimd. Threads may share it."""

import secrets
from types import ModuleType

import grpc
from google.protobuf import json_format

from eval.calls import Call, Reply, Scored
from eval.errors import EvalError

SERVICE = "/skim.v1.Inference/"
CALL_LIMIT_S = 900
UNLIMITED = -1


class Client:
    def __init__(self, address: str, pb: ModuleType) -> None:
        self._pb = pb
        limits = [("grpc.max_receive_message_length", UNLIMITED)]
        self._channel = grpc.insecure_channel(address, options=limits)

    def close(self) -> None:
        self._channel.close()

    def model(self) -> dict:
        """GetModelResponse, with the formats' short names."""
        answer = self._unary("GetModel", self._pb.GetModelRequest(), self._pb.GetModelResponse)
        names = [self._pb.WeightFormat.Name(number) for number in answer.weight_formats]
        short = [name.removeprefix("WEIGHT_FORMAT_").lower() for name in names]
        facts = json_format.MessageToDict(answer, preserving_proto_field_name=True)
        return {**facts, "weight_formats": short, "max_context": answer.max_context}

    def tokenize(self, text: str) -> list[int]:
        request = self._pb.TokenizeRequest(text=text)
        return list(self._unary("Tokenize", request, self._pb.TokenizeResponse).ids)

    def tokenize_texts(self, text: str) -> tuple[list[int], list[str]]:
        """Ids, and the text of each."""
        request = self._pb.TokenizeRequest(text=text)
        answer = self._unary("Tokenize", request, self._pb.TokenizeResponse)
        return list(answer.ids), list(answer.texts)

    def tokenize_chat(self, content: str) -> list[int]:
        """One user's turn under the model's template, up to where the assistant's begins."""
        message = self._pb.Message(role="user", content=content)
        request = self._pb.TokenizeRequest(chat=self._pb.Chat(messages=[message]))
        return list(self._unary("Tokenize", request, self._pb.TokenizeResponse).ids)

    def generate(self, call: Call) -> Reply:
        method = self._channel.unary_stream(
            SERVICE + "Generate",
            request_serializer=self._pb.GenerateRequest.SerializeToString,
            response_deserializer=self._pb.GenerateResponse.FromString,
        )
        reply = Reply()
        try:
            for message in method(self._request(call), timeout=CALL_LIMIT_S):
                self._take(message, reply)
        except grpc.RpcError as error:
            raise _refusal(error) from error
        if not reply.final:
            raise EvalError("skimd ended a stream without a final message")
        if call.prompt_logprobs and [s.token for s in reply.prompt] != list(call.prompt[1:]):
            raise EvalError("skimd did not score each prompt token but the first, in order")
        return reply

    def _request(self, call: Call):
        pb = self._pb
        request = pb.GenerateRequest(
            token_ids=pb.TokenIds(ids=call.prompt),
            sampling=pb.Sampling(
                temperature=0,
                max_tokens=call.max_tokens,
                ignore_eos=True,
                forced_token_ids=call.forced,
            ),
            cache_salt=call.shares or secrets.token_hex(8),
            output=pb.Output(text=False, token_ids=True, logprobs=call.logprobs),
        )
        if call.prompt_logprobs:
            request.output.prompt_logprobs = True
        if call.weights is not None:
            request.weights = pb.WeightFormat.Value(f"WEIGHT_FORMAT_{call.weights.upper()}")
        if call.prefill is not None:
            try:
                json_format.ParseDict(call.prefill, request.prefill)
            except json_format.ParseError as error:
                raise EvalError(f"prefill policy {call.prefill}: {error}") from error
        return request

    def _take(self, message, reply: Reply) -> None:
        if message.HasField("final"):
            to_dict = json_format.MessageToDict
            reply.final = to_dict(message.final, preserving_proto_field_name=True)
            return
        reply.tokens += message.delta.token_ids
        reply.scored += map(_scored, message.delta.logprobs)
        reply.prompt += map(_scored, message.delta.prompt_logprobs)

    def _unary(self, name: str, request, response):
        method = self._channel.unary_unary(
            SERVICE + name,
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )
        try:
            return method(request, timeout=CALL_LIMIT_S)
        except grpc.RpcError as error:
            raise _refusal(error) from error


def _scored(entry) -> Scored:
    top = tuple((best.token_id, best.logprob) for best in entry.top)
    return Scored(entry.token_id, entry.logprob, top)


def _refusal(error: grpc.RpcError) -> EvalError:
    return EvalError(f"skimd answered {error.code().name}: {error.details()}")
