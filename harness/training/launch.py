"""torchrun, ending as its processes did: `python -m harness.training.launch --nproc-per-node 8 -m harness stage DIR`.

torchrun itself exits with 1 whatever happened. Here a rank that was killed (out of memory) ends the launcher by the same signal, and
of the ranks' exit codes the lowest is passed on: a user's error (1) before a defect (70) before a stage that was stopped (75).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import get_args_parser, run

from harness.errors import STOPPED_EXIT

SECONDS_TO_STOP = 180
"""How long the ranks may take, after SIGTERM, to end their step and save the state, before they are killed."""


def launch(arguments: Sequence[str]) -> int:
    """Run torchrun with `arguments`; the exit code of the most telling rank, or minus the signal that ended it. 0 where all is well."""
    options: Any = get_args_parser().parse_args(list(arguments))
    options.shutdown_timeout = options.shutdown_timeout or SECONDS_TO_STOP
    try:
        run(options)  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        return min(failure.exitcode for failure in error.failures.values())
    except SignalException:
        return STOPPED_EXIT
    return 0


def main() -> None:
    code = launch(sys.argv[1:])
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    main()
