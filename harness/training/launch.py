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
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
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
        return _most_telling(list(error.failures.values()), options.shutdown_timeout)
    except SignalException:
        return STOPPED_EXIT
    return 0


def _most_telling(failures: Sequence[ProcessFailure], seconds_to_stop: int) -> int:
    """The lowest exit code of the ranks that failed by themselves; torchrun then ends the others, by SIGTERM and later by SIGKILL."""
    first = min(failure.timestamp for failure in failures)
    own = [failure.exitcode for failure in failures if failure.timestamp < first + seconds_to_stop and failure.exitcode != -signal.SIGTERM]
    return min(own, default=STOPPED_EXIT)


def main() -> None:
    code = launch(sys.argv[1:])
    if code < 0:
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    main()
