"""`python -m harness`: the command line, and each stage's own process."""

import signal
import sys

if sys.argv[1:2] == ["stage"]:
    # all that a stage keeps is written whole, so Ctrl-C may end it at once, wherever it is; the runner says what happened
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from harness.cli import main

main()
