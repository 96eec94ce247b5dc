"""`tiny` under three seeds: weights, prompts, order and draws all differ; does the last iteration beat `sft` each time?"""

from harness.recipe import load
from harness.runs.sweeps import Sweep, seeded

sweep = Sweep(name="tiny-seeds", summary="tiny under three seeds", variants={"tiny": seeded(load("tiny"), 3)})
