"""What all commands of ./run eval have in common: arguments, the daemon, the folder."""

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from eval import daemon
from eval.client import Client
from eval.stubs import load_stubs

ROOT = Path(__file__).resolve().parents[2]


def add_common(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--server", help="address of a skimd that runs already (default: start one)")
    add("--model", type=Path, default=ROOT / "models" / "SmolLM2-135M-Instruct")
    add("--skimd", type=Path, default=ROOT / "build" / "release" / "bin" / "skimd")
    add("--skimd-arg", action="append", default=[], help="one more argument for skimd; repeat")
    add("--folder", type=Path, default=ROOT / "build" / "eval", help="for texts and results")
    add("--seed", type=int, default=1, help="of every random choice (default 1)")
    add("--fresh", action="store_true", help="forget the results of earlier runs")
    add("--docs", type=Path, help="also write the table into this document")


def stubs(args: argparse.Namespace) -> ModuleType:
    return load_stubs(ROOT / "proto", args.folder / "stubs")


@contextlib.contextmanager
def connected(
    args: argparse.Namespace, pb: ModuleType, arguments: Sequence[str] = ()
) -> Iterator[tuple[Client, object]]:
    """A client, and what identifies the daemon's results; `arguments` are for a started one."""
    with contextlib.ExitStack() as stack:
        if args.server:
            client = Client(args.server, pb)
            stack.callback(client.close)
            yield client, client.model()
            return
        every = [*arguments, *args.skimd_arg]
        yield stack.enter_context(connected_to_own(args.skimd, args.model, pb, every))


@contextlib.contextmanager
def connected_to_own(
    skimd: Path, model: Path, pb: ModuleType, arguments: Sequence[str]
) -> Iterator[tuple[Client, object]]:
    """The same of a daemon that is started for it."""
    identity = daemon.identity(skimd, model, arguments)
    with daemon.started(skimd, model, arguments) as address:
        with contextlib.closing(Client(address, pb)) as client:
            yield client, identity


def weights_remark(model: Path) -> str:
    """One sentence if the weights were quantised before Skim saw them."""
    if (model / "skim_stamp.json").exists():
        return (
            "The weights of this model come from a 4-bit file, so bf16 stands for the values of "
            "that file\nand not for the published checkpoint's."
        )
    return ""


def at_least_one(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value
