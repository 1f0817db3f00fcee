class BenchError(Exception):
    """A sentence for the user; ends one peer's measuring, never the whole run."""


class NotServed(BenchError):
    """The peer does not have these weights; not a fault."""
