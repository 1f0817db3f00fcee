"""./run eval: what Skim's savings cost in accuracy. Results go to stdout, progress to stderr."""

import argparse
import signal
import sys

from eval import lazy_command, weights_command
from eval.errors import EvalError
from eval.progress import say


def main() -> int:
    parser = argparse.ArgumentParser(prog="run eval", description=__doc__.split(": ", 1)[1])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    weights_command.add_parser(commands)
    lazy_command.add_parser(commands)
    args = parser.parse_args()
    # The daemon that was started has to be stopped, whoever ends this.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        args.run(args)
    except EvalError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("interrupted; what was measured is kept, the same command goes on from there")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
