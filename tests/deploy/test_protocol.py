"""Our files of foreign protocols against the originals: what we declare must have their names,
numbers and types, or a gateway and the daemon would misread each other."""

import subprocess
import tempfile
import unittest
from pathlib import Path

from google.protobuf import descriptor_pb2
from smg_grpc_proto.generated import common_pb2, vllm_engine_pb2
from tritonclient.grpc import model_config_pb2, service_pb2

from programs import ROOT


def compiled(path: str) -> dict[str, descriptor_pb2.FileDescriptorProto]:
    """File name -> descriptor, of a proto of ours and all it imports."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "set"
        subprocess.run(
            ["protoc", f"-I{ROOT / 'proto'}", "--include_imports", f"--descriptor_set_out={out}"]
            + [str(ROOT / "proto" / path)],
            check=True,
        )
        files = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())
    return {file.name: file for file in files.file}


def original(module) -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(file)
    return file


def messages(scope, prefix=""):
    for message in getattr(scope, "message_type", None) or getattr(scope, "nested_type", []):
        name = prefix + message.name
        yield name, message
        yield from messages(message, name + ".")


def shape(field) -> tuple:
    return field.name, field.number, field.label, field.type, field.type_name, field.proto3_optional


class ProtocolTest(unittest.TestCase):
    def assert_part_of(self, ours, *theirs):
        """`theirs`: the files that have it among them."""
        self.assertEqual({ours.package}, {file.package for file in theirs})
        originals = {name: message for file in theirs for name, message in messages(file)}
        for name, message in messages(ours):
            known = {shape(field) for field in originals[name].field}
            for field in message.field:
                self.assertIn(shape(field), known, f"{name}.{field.name}")

    def test_the_messages_are_part_of_the_originals(self):
        ours = compiled("vllm/grpc/engine/vllm_engine.proto")
        self.assert_part_of(
            ours["vllm/grpc/engine/vllm_engine.proto"], original(vllm_engine_pb2)
        )
        self.assert_part_of(ours["smg/grpc/common/common.proto"], original(common_pb2))

    def test_tritons_messages_and_methods_are_part_of_the_originals(self):
        ours = compiled("inference/grpc_service.proto")["inference/grpc_service.proto"]
        theirs = original(service_pb2)
        self.assert_part_of(ours, theirs, original(model_config_pb2))
        self.assertEqual(ours.service[0].name, theirs.service[0].name)
        known = {
            (m.name, m.input_type, m.output_type, m.client_streaming, m.server_streaming)
            for m in theirs.service[0].method
        }
        for m in ours.service[0].method:
            self.assertIn(
                (m.name, m.input_type, m.output_type, m.client_streaming, m.server_streaming), known
            )
        # A refusal can name every field of a request.
        names = dict(messages(ours))
        for name, message in messages(theirs):
            if name.startswith("ModelInferRequest"):
                self.assertEqual(
                    {f.name for f in names[name].field}, {f.name for f in message.field}, name
                )

    def test_the_service_has_exactly_the_methods_of_the_original(self):
        ours = compiled("vllm/grpc/engine/vllm_engine.proto")["vllm/grpc/engine/vllm_engine.proto"]
        theirs = original(vllm_engine_pb2)

        def methods(file):
            return {
                (m.name, m.input_type, m.output_type, m.client_streaming, m.server_streaming)
                for m in file.service[0].method
            }

        self.assertEqual(ours.service[0].name, theirs.service[0].name)
        self.assertEqual(methods(ours), methods(theirs))

    def test_every_field_of_a_request_is_declared_so_that_a_refusal_can_name_it(self):
        ours = dict(messages(compiled("vllm/grpc/engine/vllm_engine.proto")["vllm/grpc/engine/vllm_engine.proto"]))
        theirs = dict(messages(original(vllm_engine_pb2)))
        for name in ("GenerateRequest", "SamplingParams", "TokenizedInput", "GetLoadsRequest"):
            self.assertEqual(
                {f.name for f in ours[name].field}, {f.name for f in theirs[name].field}, name
            )


if __name__ == "__main__":
    unittest.main()
