"""The tables of ./run eval lazy, and its rows of JSON."""

from collections.abc import Iterator

from eval.intervals import Estimate
from eval.lazy import EXACT, Setting
from eval.verdicts import SOLVED_SHARE, Verdict

SUITE = "eval_lazy"
Verdicts = dict[str, Verdict]  # by setting, exact among them


def rows(verdicts: Verdicts, settings: dict[str, Setting]) -> Iterator[dict]:
    for name, verdict in verdicts.items():
        own = {"profile": name, "weights": settings[name].weights}
        tasks = {**verdict.tasks, **({"all": verdict.overall} if verdict.overall else {})}
        for task, result in tasks.items():
            more = {**own, "task": task, "counts": result.counts}
            yield _row("right", "%", result.right, more)
            if name != EXACT:
                yield _row("loss_points", "points", result.loss, more)
                if result.lost is not None:
                    yield _row("lost_share", "%", result.lost, more)
        if name == EXACT:
            continue
        share = {"suite": SUITE, "name": "pruned_items", "value": round(verdict.pruned, 2)}
        yield {**share, "unit": "%", "params": own}
        for length, result in verdict.by_length.items():
            more = {**own, "task": "all", "prompt_tokens": length}
            yield _row("loss_points", "points", result.loss, more)
        for layout, result in verdict.by_layout.items():
            more = {**own, "task": "all", "question": layout}
            yield _row("loss_points", "points", result.loss, more)
        for length, gain in verdict.gains.items():
            yield _row("ttft_gain", "x", gain, {**own, "prompt_tokens": length})
        if verdict.fidelity is not None:
            kept = verdict.fidelity
            yield _row("first_token_agreement", "%", kept.first_token, own)
            yield _row("token_agreement", "%", kept.any_token, own)
            yield _row("kl", "nats", kept.divergence, own)
            yield _row("nll_difference", "nats", kept.nll_difference, own)


def _row(name: str, unit: str, estimate: Estimate, params: dict) -> dict:
    interval = {"low": round(estimate.low, 4), "high": round(estimate.high, 4)}
    value = round(estimate.value, 4)
    return {"suite": SUITE, "name": name, "value": value, "unit": unit, "params": params | interval}


def section(verdicts: Verdicts, counts: dict[str, int], facts: dict) -> str:
    """`counts`: items of each task; `facts`: date, model, backend, weights, lengths, timed, remark."""
    exact = verdicts[EXACT]
    lengths = list(exact.gains)
    others = {name: verdict for name, verdict in verdicts.items() if name != EXACT}
    items = ", ".join(f"{task} {count}" for task, count in counts.items())
    lines = [
        "## Lazy prefill",
        "",
        f"`./run eval lazy`, {facts['date']}, {facts['model']} ({facts['weights']} weights if not said) on",
        f"{facts['backend']}. Items: {items}; lengths {facts['lengths']}.",
        f"A task counts if the exact model gets {SOLVED_SHARE:.0%} right. Loss: points below the",
        "exact model over all items that count. Lost: of what it gets right, what is wrong now.",
        "Pruned: prompts that the server pruned.",
        "random-N sends N % of the context's tokens, drawn by the client. TTFT: of the exact model over",
        f"the setting's, {facts['timed']} prompts of each length one at a time. In brackets: 95 % intervals of",
        "a paired bootstrap over items.",
        *([facts["remark"]] if facts["remark"] else []),
        "",
        "| setting | pruned, % | loss, points | lost, % | " + " | ".join(f"TTFT x, {n}" for n in lengths) + " |",
        "|---|---:|---:|---:|" + "---:|" * len(lengths),
    ]
    for name, verdict in others.items():
        result = verdict.overall
        loss = result.loss.text(1) if result else "-"
        lost = result.lost.text(1) if result and result.lost else "-"
        gains = " | ".join(verdict.gains[n].text(2) for n in lengths)
        lines.append(f"| {name} | {verdict.pruned:.0f} | {loss} | {lost} | {gains} |")
    lengths_of = {name: verdict.by_length for name, verdict in verdicts.items()}
    layouts_of = {name: verdict.by_layout for name, verdict in verdicts.items()}
    lines += _losses("Loss by length of the prompt, points:", lengths_of)
    lines += _losses("Loss by where the question stands, points:", layouts_of)
    lines += ["", "Right replies, %:", ""]
    lines += ["| task | exact | " + " | ".join(others) + " |", "|---|---:|" + "---:|" * len(others)]
    for task, result in exact.tasks.items():
        note = "" if result.counts else " (does not count)"
        cells = " | ".join(verdict.tasks[task].right.text(1) for verdict in others.values())
        lines.append(f"| {task}{note} | {result.right.text(1)} | {cells} |")
    if exact.fidelity is not None:
        lines += ["", *_fidelity(others)]
    return "\n".join(lines) + "\n"


def _losses(title: str, parts: dict[str, dict]) -> list[str]:
    """`parts`: by setting, then by what the items are divided by."""
    if not parts[EXACT]:
        return []
    lines = ["", title, "", "| setting | " + " | ".join(map(str, parts[EXACT])) + " |"]
    lines += ["|---|" + "---:|" * len(parts[EXACT])]
    for name, of in parts.items():
        if name != EXACT:
            lines.append(f"| {name} | " + " | ".join(o.loss.text(1) for o in of.values()) + " |")
    return lines


def _fidelity(others: Verdicts) -> list[str]:
    lines = [
        "Continuations, against the exact model on the same tokens (KL from the 20 best tokens, a",
        "lower bound):",
        "",
        "| setting | same first token, % | same token, % | KL, nats | NLL difference, nats |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, verdict in others.items():
        kept = verdict.fidelity
        numbers = (kept.first_token.text(1), kept.any_token.text(1))
        differences = (kept.divergence.text(4), kept.nll_difference.text(4))
        lines.append(f"| {name} | {' | '.join(numbers + differences)} |")
    return lines
