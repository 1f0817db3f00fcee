"""What the workers have in common. A worker measures one visit to one peer in a process, and a
virtual environment, of its own, and prints the samples as its last line of JSON."""

import json

from bench_peers.errors import BenchError, NotServed


def run_worker(main) -> None:
    try:
        answer = main()
    except NotServed as error:
        answer = {"not_served": str(error)}
    except BenchError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer), flush=True)
