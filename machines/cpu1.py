"""One CPU thread: for models so small that a second one only waits, and for machines that are busy."""

from harness.machine import load

changes = {"name": "cpu1", "summary": "one CPU thread, fp32", "num_threads": 1, "env": {"OMP_NUM_THREADS": "1"}}
machine = load("cpu").model_copy(update=changes)
