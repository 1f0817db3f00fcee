class EvalError(Exception):
    """A sentence for the user; ends the command."""
