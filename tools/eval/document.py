"""A part of a document that a command writes anew each time."""

from pathlib import Path

from eval.errors import EvalError


def with_part(document: str, name: str, text: str) -> str:
    """The document with the named part replaced, or put at its end."""
    begin, end = f"<!-- {name}: written by ./run eval {name} -->", f"<!-- {name}: end -->"
    block = f"{begin}\n{text}{end}\n"
    if begin not in document and end not in document:
        return (document.rstrip("\n") + "\n\n" if document.strip() else "") + block
    before, opened, rest = document.partition(begin)
    _, closed, after = rest.partition(end)
    if not opened or not closed or begin in after or end in after:
        raise EvalError(f"the document should hold '{begin}' and then '{end}', once each")
    return before + block + after.removeprefix("\n")


def write_part(path: Path, name: str, text: str) -> None:
    document = path.read_text(encoding="utf-8") if path.exists() else ""
    path.write_text(with_part(document, name, text), encoding="utf-8")
