"""`python -m harness`: the command line, each stage's own process, and the server that stages are forked from."""

import signal
import sys

from harness.runs import stage_server


def run() -> None:
    """The command; what the server forks comes back as the command `stage`."""
    is_forked = sys.argv[1:2] == [stage_server.SERVE]
    if is_forked:
        sys.argv[1:] = ["stage", stage_server.serve(int(sys.argv[2]), int(sys.argv[3]))]
    if sys.argv[1:2] == ["stage"]:
        # all that a stage keeps is written whole, so Ctrl-C may end it at once, wherever it is; the runner says what happened
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from harness.cli.main import main

    try:
        main()
    except SystemExit as ended:
        if is_forked and isinstance(ended.code, int):
            stage_server.end(ended.code)
        raise


run()
