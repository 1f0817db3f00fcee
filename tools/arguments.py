"""What the tools' command lines have in common."""

import argparse
from collections.abc import Callable, Sequence


def list_of(choices: Sequence[str]) -> Callable[[str], list[str]]:
    """Parses values separated by commas, each one of `choices`."""

    def parse(text: str) -> list[str]:
        values = text.split(",")
        for value in values:
            if value not in choices:
                raise argparse.ArgumentTypeError(f"'{value}' is none of {', '.join(choices)}")
        return values

    return parse
