"""./run eval weights"""

import argparse
import datetime
import json

from arguments import list_of
from eval import formats, formats_report
from eval.document import write_part
from eval.errors import EvalError
from eval.formats import BASE, Measured, Plan, Setting
from eval.progress import say
from eval.settings import add_common, at_least_one, connected, stubs, weights_remark
from eval.store import Store
from eval.texts import Texts

WEIGHTS = ("bf16", "fp8", "int8", "int4")
KV_FORMATS = ("bf16", "int8", "fp8")
SOURCES = ("addresses of presidents of the United States (1790 to now)", "the King James Bible")


def add_parser(commands) -> None:
    parser = commands.add_parser(
        "weights",
        help="what weight and KV formats cost against bf16",
        description=formats.__doc__.split("\n\n", 1)[1].strip()
        + " Prints one JSON object per line, then a table. KV formats other than bf16 are "
        "measured with bf16 weights, each in a daemon of its own.",
    )
    add_common(parser)
    plan = Plan()
    add = parser.add_argument
    add("--weights", type=list_of(WEIGHTS), default=list(WEIGHTS), help="default: all")
    add("--kv-formats", type=list_of(KV_FORMATS), default=list(KV_FORMATS), help="default: all")
    add("--context", type=at_least_one, default=plan.context, help="tokens of a scored piece")
    add("--pieces", type=at_least_one, default=plan.pieces, help="of each of the two texts")
    add("--replies", type=at_least_one, default=plan.replies, help="for each of the two texts")
    add("--reply-tokens", type=at_least_one, default=plan.reply)
    add("--in-flight", type=at_least_one, default=plan.in_flight, help="requests at once")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    if args.context < 4:
        raise EvalError("--context must be at least 4 tokens")
    pb = stubs(args)
    texts = Texts(args.folder / "texts")
    documents = {SOURCES[0]: texts.speeches(), SOURCES[1]: texts.scripture()}
    plan = Plan(
        context=args.context,
        pieces=args.pieces,
        reply=args.reply_tokens,
        replies=args.replies,
        in_flight=args.in_flight,
        seed=args.seed,
    )
    results_file = args.folder / "weights.jsonl"
    if args.fresh:
        results_file.unlink(missing_ok=True)
    store = Store(results_file)
    measured: dict[Setting, Measured] = {}
    skipped: dict[Setting, str] = {}
    backend = ""
    for kv, wanted in formats.daemons(args.weights, args.kv_formats, bool(args.server), skipped):
        try:
            with connected(args, pb, formats.daemon_arguments(wanted, kv)) as (client, identity):
                model = client.model()
                backend = model["backend"]
                material = formats.gather(documents, plan, client.tokenize)
                for weights in wanted:
                    setting = Setting(weights, kv)
                    if weights in model["weight_formats"]:
                        measured[setting] = formats.measure(
                            client, setting, material, plan, store, identity
                        )
                    else:
                        have = ", ".join(model["weight_formats"])
                        skipped[setting] = f"this skimd serves {have} weights"
        except EvalError as error:
            if kv == BASE.kv:
                raise
            skipped[Setting(BASE.weights, kv)] = str(error)
            say(f"{kv} KV is left out: {error}")
    store.close()
    if BASE not in measured:
        raise EvalError("this skimd does not serve bf16 weights, which all is compared with")
    results = {s: formats.compare(measured[BASE], value) for s, value in measured.items()}
    for row in formats_report.rows(results, skipped):
        print(json.dumps(row), flush=True)
    facts = {
        "date": datetime.date.today().isoformat(),
        "model": args.model.name,
        "backend": backend,
        "sources": SOURCES,
        "remark": weights_remark(args.model),
    }
    table = formats_report.section(results, skipped, plan, facts)
    print(table)
    if args.docs:
        write_part(args.docs, "weights", table)
        say(f"wrote the table to {args.docs}")
