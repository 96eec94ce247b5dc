"""One core with room for three stages at a time; trainings save their state as often as they can."""

from harness.machine import load

changes = {
    "name": "crowded",
    "slots": 3,
    "slots_of": {"model": 1, "prompts": 1, "generate": 1, "train": 1, "evaluate": 1},
    "generate_batch": 8,
    "generate_shard": 8,
    "checkpoint_every_seconds": 0.0,
    "judge_retries": 2,
    "judge_timeout_seconds": 60.0,
}
machine = load("cpu1").model_copy(update=changes)
