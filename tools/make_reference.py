#!/usr/bin/env python3
"""Writes docs/metrics.md and docs/api.md: references made from the code.

metrics.md is made from what a running daemon shows (name, type, help, labels; after a load, so
that all labels are there), api.md from the proto and its comments. tests/deploy fails when either
is out of date.

    tools/make_reference.py metrics HOST:PORT > docs/metrics.md
    tools/make_reference.py api > docs/api.md
"""

import re
import sys
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto/skim/v1/inference.proto"

METRICS_HEAD = """\
# Metrics

`GET /metrics` on the address of `--metrics`, in Prometheus' text format. A scrape reads atomics
only: it never waits for the scheduler. Made by `tools/make_reference.py`; do not edit.

| metric | type | labels | meaning |
|---|---|---|---|
"""

METRICS_TAIL = """
Families with `reason` show every value from the start; those with `code` and `tenant` show a value
once it occurred. With `--vllm-metrics` the following stand beside them, with the labels
`model_name` and `engine="0"`:

| ours | alias |
|---|---|
"""


def aliases() -> list[tuple[str, str]]:
    source = (ROOT / "server/metric_aliases.cc").read_text()
    return re.findall(r'\{"(skim_\w+)", "(vllm:\w+)"\}', source)


def metrics_reference(page: str) -> str:
    helps = dict(re.findall(r"^# HELP (skim_\w+) (.*)$", page, re.MULTILINE))
    types = dict(re.findall(r"^# TYPE (skim_\w+) (\w+)$", page, re.MULTILINE))
    lines = []
    for name in sorted(types):
        samples = re.findall(
            rf"^{name}(?:_bucket|_sum|_count)?\{{(.*)\}} ", page, re.MULTILINE
        )
        labels = sorted({label for s in samples for label in re.findall(r'(\w+)="', s)} - {"le"})
        shown = ", ".join(f"`{label}`" for label in labels)
        lines.append(f"| `{name}` | {types[name]} | {shown} | {helps[name]} |\n")
    table = "".join(f"| `{own}` | `{other}` |\n" for own, other in aliases())
    return METRICS_HEAD + "".join(lines) + METRICS_TAIL + table


API_HEAD = """\
# API

`skim.v1.Inference`, from [proto/skim/v1/inference.proto](../proto/skim/v1/inference.proto). Made by
`tools/make_reference.py`; do not edit.
"""

FIELD = re.compile(r"(?:(optional|repeated) )?(map<[^>]+>|[\w.]+) (\w+) = (\d+)[^;]*;\s*(?://\s*(.*))?$")
RPC = re.compile(r"rpc (\w+)\((\w+)\) returns \((stream )?(\w+)\);")
VALUE = re.compile(r"(\w+) = (\d+);\s*(?://\s*(.*))?$")


def api_reference(proto: str) -> str:
    """The proto's own comments, block by block, in the order of the file."""
    out = [API_HEAD]
    scopes: list[tuple[str, str]] = []  # (kind, full name)
    comment: list[str] = []
    begun = False  # behind the `package` line, where comments belong to what follows

    def take_comment() -> str:
        text = " ".join(filter(None, comment))
        comment.clear()
        return text.replace("|", "\\|")

    for line in proto.splitlines():
        text = line.strip()
        if text.startswith("package"):
            begun = True
            comment.clear()
            continue
        if not begun or text.startswith("option "):
            continue
        if text.startswith("//"):
            comment.append(text[2:].strip())
        elif opened := re.match(r"(service|message|enum|oneof) (\w+) \{(\})?$", text):
            kind, name, closed = opened.groups()
            about = take_comment()
            if kind == "oneof":
                out.append(f"| | *one of* `{name}` | | {about} |\n")
            else:
                outer = [n for k, n in scopes if k == "message"][-1:]
                full = ".".join([*outer, name])
                out.append(f"\n## {full}\n\n" + (f"{about}\n\n" if about else ""))
                if kind != "service" and not closed:
                    out.append("| number | field | type | |\n|---|---|---|---|\n")
                name = full
            if not closed:
                scopes.append((kind, name))
        elif text == "}":
            scopes.pop()
            comment.clear()
        elif rpc := RPC.match(text):
            name, request, stream, response = rpc.groups()
            returns = ("stream of " if stream else "") + response
            about = take_comment()
            out.append(f"- **{name}**: {request} -> {returns}." + (f" {about}" if about else "") + "\n")
        elif scopes and scopes[-1][0] == "enum" and (value := VALUE.match(text)):
            name, number, about = value.groups()
            out.append(f"| {number} | `{name}` | | {' '.join(filter(None, [take_comment(), about]))} |\n")
        elif field := FIELD.match(text):
            label, kind, name, number, about = field.groups()
            shown = f"{label} {kind}" if label else kind
            about = " ".join(filter(None, [take_comment(), (about or "").replace("|", "\\|")]))
            out.append(f"| {number} | `{name}` | {shown} | {about} |\n")
    return "".join(out)


def main() -> None:
    match sys.argv[1:]:
        case ["metrics", address]:
            page = urllib.request.urlopen(f"http://{address}/metrics", timeout=10).read().decode()
            sys.stdout.write(metrics_reference(page))
        case ["api"]:
            sys.stdout.write(api_reference(PROTO.read_text()))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
