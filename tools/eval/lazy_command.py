"""./run eval lazy"""

import argparse
import collections
import datetime
import json
from pathlib import Path

from arguments import list_of
from eval import lazy, lazy_report, plots, tasks, verdicts
from eval.document import write_part
from eval.errors import EvalError
from eval.lazy import DEFAULT_SETTINGS, EXACT, SETTINGS, Setting
from eval.progress import say
from eval.prompts import Composer, Filler
from eval.settings import add_common, at_least_one, connected, stubs, weights_remark
from eval.sources import Sources
from eval.store import Store
from eval.texts import Texts, library_code

SHORTEST_MODULE = 20_000  # characters; less gives no long prompts
FEWEST_TOKENS = 256
# About 2 million prompt tokens for each setting: half an hour of exact prefill on two cores.
LENGTHS = "1024:150,2048:36,4096:12,8000:2"


def add_parser(commands) -> None:
    parser = commands.add_parser(
        "lazy",
        help="what pruning the prompt costs against the exact model, and what it saves",
        description=lazy.__doc__.split("\n\n", 1)[1].strip() + "\n\nTasks:\n" + _task_list(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_common(parser)
    add = parser.add_argument
    add("--settings", type=list_of(list(SETTINGS)), default=list(DEFAULT_SETTINGS),
        help=f"separated by commas, of {', '.join(SETTINGS)}; exact is always among them "
        f"(default {','.join(DEFAULT_SETTINGS)})")  # fmt: skip
    add("--setting", type=own_setting, action="append", default=[], metavar="NAME=JSON",
        help="""one more, with its PrefillPolicy, as in
        'half={"lazy": {"keep_ratio": [0.5, 0.5]}}'; repeat""")  # fmt: skip
    add("--tasks", type=list_of(list(tasks.TASKS)), default=list(tasks.TASKS), help="default: all")
    add("--lengths", type=length_list, default=length_list(LENGTHS), metavar="TOKENS:ITEMS,...",
        help=f"how many items of which length, of each task (default {LENGTHS})")  # fmt: skip
    add("--weights", type=list_of(("bf16", "fp8", "int8", "int4")), default=["bf16"],
        help="formats that all settings run with; everything is compared with the exact model in "
        "the first (default bf16)")  # fmt: skip
    add("--in-flight", type=at_least_one, default=4, metavar="N",
        help="replies asked for at once (default 4)")  # fmt: skip
    add("--timed", type=at_least_one, default=12, metavar="N",
        help="prompts of each length that are timed, one request at a time (default 12)")  # fmt: skip
    add("--plots", type=Path, help="also draw pictures into this folder")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    named = [SETTINGS[EXACT], *(SETTINGS[n] for n in args.settings if n != EXACT), *args.setting]
    pb = stubs(args)
    texts = Texts(args.folder / "texts")
    results_file = args.folder / "lazy.jsonl"
    if args.fresh:
        results_file.unlink(missing_ok=True)
    store = Store(results_file)
    # Every prompt is pruned: what pruning costs is judged, not when it pays.
    arguments = ["--weights", ",".join(args.weights), f"--lazy-min-tokens={FEWEST_TOKENS}"]
    with connected(args, pb, arguments) as (client, identity):
        model = client.model()
        for weights in args.weights:
            if weights not in model["weight_formats"]:
                have = ", ".join(model["weight_formats"])
                raise EvalError(f"--weights {weights}: this skimd serves {have} weights")
        profiles = model.get("prefill_profiles", [])
        here = lazy.offered(named, profiles)
        for setting in named:
            if setting not in here:
                have = ", ".join(profiles) or "none"
                say(f"{setting.name} is left out: the profiles of this skimd are {have}")
        chosen = lazy.with_weights(here, args.weights)
        say("making the items")
        composer = Composer(client)
        speeches = Filler(client, texts.speeches())
        sources = Sources(composer, speeches, list(library_code(SHORTEST_MODULE)))
        items = [
            item
            for task in args.tasks
            for item in tasks.make_items(task, sources, args.lengths, args.seed)
        ]
        tokens = sum(len(item.prompt) for item in items)
        say(f"{len(items)} items of {tokens} tokens together, {len(chosen)} settings")
        common = (chosen, args.seed, store, identity)
        values = lazy.run_items(client, items, *common, args.in_flight)
        timed = lazy.timed(items, args.timed)
        times = lazy.run_times(client, timed, *common)
    store.close()
    results = {name: verdicts.judge(items, values[EXACT], of) for name, of in values.items()}
    for name, result in results.items():
        result.gains = verdicts.gains(timed, times[EXACT], times[name])
    for row in lazy_report.rows(results, {setting.name: setting for setting in chosen}):
        print(json.dumps(row), flush=True)
    facts = {
        "date": datetime.date.today().isoformat(),
        "model": args.model.name,
        "backend": model["backend"],
        "weights": args.weights[0],
        "timed": args.timed,
        "lengths": ", ".join(f"{length} ({count} each)" for length, count in args.lengths),
        "remark": weights_remark(args.model),
    }
    table = lazy_report.section(results, collections.Counter(i.task for i in items), facts)
    print(table)
    if args.docs:
        write_part(args.docs, "lazy", table)
        say(f"wrote the tables to {args.docs}")
    if args.plots:
        paths = plots.draw(results, args.plots, f"{args.model.name}, {args.weights[0]} weights")
        say(f"drew {', '.join(map(str, paths))}")


def own_setting(text: str) -> Setting:
    name, separator, policy = text.partition("=")
    try:
        prefill = json.loads(policy)
    except ValueError:
        prefill = None
    if not separator or not isinstance(prefill, dict) or name in SETTINGS:
        raise argparse.ArgumentTypeError(f"'{text}' is not a new NAME=JSON")
    return Setting(name, prefill)


def length_list(text: str) -> list[tuple[int, int]]:
    pairs = []
    for part in text.split(","):
        length, separator, count = part.partition(":")
        if not separator or not length.isdigit() or not count.isdigit() or int(count) < 1:
            raise argparse.ArgumentTypeError(f"'{part}' is not TOKENS:ITEMS")
        pairs.append((int(length), int(count)))
    return pairs


def _task_list() -> str:
    return tasks.__doc__.split("\n\n", 1)[1].strip()
