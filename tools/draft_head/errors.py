"""What a user is told, and reading what he gave."""

import json
from pathlib import Path


class HeadError(Exception):
    """One line for the user."""


def read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise HeadError(f"{path} cannot be read: {error}") from error
