"""The table of ./run eval weights, and its rows of JSON."""

from collections.abc import Iterator

from eval.formats import BASE, Comparison, Plan, Setting

SUITE = "eval_weights"
Results = dict[Setting, Comparison]


def rows(results: Results, skipped: dict[Setting, str]) -> Iterator[dict]:
    for setting, result in results.items():
        params = {"weights": setting.weights, "kv_format": setting.kv}
        yield _row("perplexity", result.perplexity, "1", params)
        if setting == BASE:
            continue
        for name, unit, estimate in (
            ("perplexity_increase", "%", result.increase),
            ("top1_agreement", "%", result.agreement),
            ("agreed_tokens", "tokens", result.agreed_tokens),
            ("equal_replies", "%", result.whole_replies),
        ):
            interval = {"low": round(estimate.low, 4), "high": round(estimate.high, 4)}
            yield _row(name, estimate.value, unit, {**params, **interval})
    for setting, reason in skipped.items():
        params = {"weights": setting.weights, "kv_format": setting.kv, "reason": reason}
        yield _row("not_measured", 1, "count", params)


def _row(name: str, value: float, unit: str, params: dict) -> dict:
    return {"suite": SUITE, "name": name, "value": round(value, 4), "unit": unit, "params": params}


def section(results: Results, skipped: dict[Setting, str], plan: Plan, facts: dict) -> str:
    """`facts`: date, model, backend, sources, remark."""
    scored = 2 * plan.pieces * (plan.context - plan.context // 2)
    lines = [
        "## Weight and KV formats",
        "",
        f"`./run eval weights`, {facts['date']}, {facts['model']} on {facts['backend']}.",
        f"{scored} tokens scored: the second halves of {2 * plan.pieces} pieces of {plan.context}",
        f"tokens, half of {facts['sources'][0]}, half of {facts['sources'][1]}. Greedy replies of",
        f"{plan.reply} tokens to {2 * plan.replies} prompts of {plan.prompt} tokens of the same",
        "texts. In brackets: 95 % intervals of a paired bootstrap over pieces or prompts.",
        *([facts["remark"]] if facts["remark"] else []),
        "",
        "| weights | KV | perplexity | increase, % | same most probable token, % "
        f"| same tokens of {plan.reply} | same replies, % |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for setting, result in results.items():
        cells = ["", "", "", ""] if setting == BASE else _cells(result)
        numbers = " | ".join([f"{result.perplexity:.3f}", *cells])
        lines.append(f"| {setting.weights} | {setting.kv} | {numbers} |")
    if skipped:
        lines.append("")
        lines += [f"- not measured: {setting}: {why}" for setting, why in skipped.items()]
    return "\n".join(lines) + "\n"


def _cells(result: Comparison) -> list[str]:
    return [
        result.increase.text(2),
        result.agreement.text(1),
        result.agreed_tokens.text(1),
        result.whole_replies.text(0),
    ]
