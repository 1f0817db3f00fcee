"""./run bench peers: prints one JSON object per line, progress to stderr."""

import argparse
import datetime
import json
import sys
from pathlib import Path

from arguments import list_of
from bench_peers import machine, report
from bench_peers.errors import BenchError, NotServed
from bench_peers.gguf_files import check_same_model
from bench_peers.llama_cpp_peer import LlamaCppPeer
from bench_peers.openai_peer import OpenAiPeer
from bench_peers.openvino_peer import OpenVinoPeer
from bench_peers.peer import Peer, Setup
from bench_peers.processes import say
from bench_peers.results import OURSELVES, Contestant, Results, visits
from bench_peers.skim_peer import SkimPeer

ROOT = Path(__file__).resolve().parents[2]
ROUNDS, QUICK_ROUNDS = 5, 2
PEERS = (OURSELVES, "openvino", "llama.cpp")
FORMATS = ("bf16", "int8", "int4")
BUSY_LOAD = 0.5


def main() -> int:
    args = parse_args()
    try:
        setup = make_setup(args)
    except BenchError as error:
        say(str(error))
        return 1
    if machine.load_average() > BUSY_LOAD:
        say(f"the load is {machine.load_average():.1f}: other work on this machine spoils numbers")
    peers = make_peers(args, setup)
    results = Results()
    versions = prepare(peers, args.weights, results)
    try:
        measure(peers, versions, args.rounds, results)
    except KeyboardInterrupt:
        say("interrupted; this is what was measured until now")
    for row in results.rows():
        print(json.dumps(row), flush=True)
    compared = any(row["name"] == "ratio" for row in results.rows())
    if args.docs and compared:
        report.write_section(args.docs, report.section(results, setting(args, peers, versions)))
        say(f"wrote the table to {args.docs}")
    return 0 if compared else 1


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="run bench peers", description=__doc__)
    add = parser.add_argument
    add("--peers", type=list_of(PEERS), default=list(PEERS), help="default: all; " + _of(PEERS))
    add("--weights", type=list_of(FORMATS), default=["bf16", "int8"], help=_of(FORMATS))
    add("--rounds", type=int, help=f"visits to each (default {ROUNDS})")
    add("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds, docs/ left alone")
    add("--threads", type=int, default=machine.usable_cores(), help="default: every core")
    add("--jobs", type=int, default=machine.usable_cores(), help="for compilers")
    add("--openai-url", help="one more peer: a server of the OpenAI API that runs already")
    add("--openai-name", default="openai", help="what to call it")
    add("--openai-weights", default="bf16", choices=FORMATS, help="what it computes with")
    add("--openai-model", help="default: the first that it lists")
    add("--docs", type=Path, help="file for the table (default: docs/benchmarks.md, if not quick)")
    add("--folder", type=Path, default=ROOT / "build" / "peers", help="for installations")
    add("--model", type=Path, default=ROOT / "models" / "SmolLM2-135M-Instruct")
    add("--skimd", type=Path, default=ROOT / "build" / "release" / "bin" / "skimd")
    add("--skimd-arg", action="append", default=[], help="one more argument for skimd; repeat")
    args = parser.parse_args()
    if args.openai_name in PEERS:
        parser.error(f"--openai-name: {args.openai_name} is the name of a peer already")
    if args.rounds is None:
        args.rounds = QUICK_ROUNDS if args.quick else ROUNDS
    if args.docs is None and not args.quick:
        args.docs = ROOT / "docs" / "benchmarks.md"
    return args


def make_setup(args: argparse.Namespace) -> Setup:
    # The model's own tools live one folder up.
    sys.path.insert(0, str(ROOT / "tools"))
    import get_model
    from hf_directory import ToolError, sha256_of

    try:
        gguf = get_model.packaged_gguf()
    except ToolError as error:
        raise BenchError(str(error)) from error
    check_same_model(gguf, sha256_of(gguf), args.model)
    config = json.loads((args.model / "config.json").read_text())
    return Setup(
        folder=args.folder.resolve(),
        threads=args.threads,
        jobs=args.jobs,
        gguf=gguf,
        skim_model=args.model,
        vocabulary=config["vocab_size"],
    )


def make_peers(args: argparse.Namespace, setup: Setup) -> dict[str, Peer]:
    known: dict[str, Peer] = {
        OURSELVES: SkimPeer(setup, args.skimd, ROOT / "proto", args.skimd_arg),
        "openvino": OpenVinoPeer(setup),
        "llama.cpp": LlamaCppPeer(setup),
    }
    peers = {name: peer for name, peer in known.items() if name in args.peers}
    if args.openai_url:
        peers[args.openai_name] = OpenAiPeer(
            setup, args.openai_url, args.openai_name, args.openai_weights, args.openai_model
        )
    return peers


def prepare(peers: dict[str, Peer], formats: list[str], results: Results) -> dict[Contestant, str]:
    """Whoever can take part, with versions; the others go to `results` with the reason."""
    ready: dict[Contestant, str] = {}
    for weights in formats:
        for name, peer in peers.items():
            if weights not in peer.weights():
                continue
            try:
                ready[Contestant(name, weights)] = peer.prepare(weights)
            except BenchError as error:
                _give_up(Contestant(name, weights), error, results)
    return ready


def measure(
    peers: dict[str, Peer], ready: dict[Contestant, str], rounds: int, results: Results
) -> None:
    order = list(visits(list(ready), rounds))
    for number, contestant in enumerate(order):
        if contestant in results.not_measured:
            continue
        say(f"visit {number + 1} of {len(order)}: {contestant}")
        try:
            peer = peers[contestant.peer]
            results.add(contestant, peer.visit(contestant.weights, seed=number + 1))
        except BenchError as error:
            _give_up(contestant, error, results)


def _give_up(contestant: Contestant, error: BenchError, results: Results) -> None:
    verb = "is left out" if isinstance(error, NotServed) else "failed"
    say(f"{contestant} {verb}: {error}")
    results.not_measured[contestant] = str(error)


def setting(
    args: argparse.Namespace, peers: dict[str, Peer], versions: dict[Contestant, str]
) -> report.Setting:
    return report.Setting(
        date=datetime.date.today().isoformat(),
        machine=machine.describe_machine(),
        threads=args.threads,
        rounds=args.rounds,
        model=args.model.name,
        versions={contestant.peer: version for contestant, version in versions.items()},
        remarks={name: peer.remark for name, peer in peers.items()},
    )


def _of(choices: tuple[str, ...]) -> str:
    return f"separated by commas, of {', '.join(choices)}"


if __name__ == "__main__":
    sys.exit(main())
