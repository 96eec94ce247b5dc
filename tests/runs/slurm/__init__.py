"""A short recipe, and the machine whose stages are jobs."""

from harness import machine as machines
from harness.machine import Request
from harness.plan import plan
from harness.recipe import load, replace
from tests import SMALL

CPU = machines.load("cpu1").model_copy(update={"fork_stages": False})
CLUSTER = CPU.model_copy(update={"slurm": Request(minutes=60)})
SMALL_RECIPE = load(str(SMALL))
RECIPE = replace(SMALL_RECIPE, name="small", iterations=SMALL_RECIPE.iterations[:1])
STAGES = {stage.path: stage for stage in plan(RECIPE)}
PATHS = list(STAGES)
