"""The Python client, generated from the published proto."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

from eval.errors import EvalError

PROTO = "skim/v1/inference.proto"


def load_stubs(protos: Path, folder: Path) -> ModuleType:
    """The module of the messages; generated into `folder` unless that is newer than the proto."""
    made = folder / PROTO.replace(".proto", "_pb2.py")
    if not made.exists() or made.stat().st_mtime < (protos / PROTO).stat().st_mtime:
        from grpc_tools import protoc

        folder.mkdir(parents=True, exist_ok=True)
        arguments = ["protoc", f"-I{protos}", f"--python_out={folder}", str(protos / PROTO)]
        if protoc.main(arguments):
            raise EvalError(f"protoc cannot read {protos / PROTO}")
    sys.path.insert(0, str(folder))
    return importlib.import_module(PROTO.replace("/", ".").replace(".proto", "_pb2"))
