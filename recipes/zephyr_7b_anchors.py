"""The checkpoints the paper's authors published, evaluated here: what our evaluation says about weights we did not train.

Rows are named as in the published tables. The revisions of iter1 to iter3 are known by their first digits only; until somebody reads
the whole commit off the Hub ('Files and versions', 'History') these rows are not run.
"""

from harness.recipe import Anchor, ModelRef, load, replace

RELEASED = "UCLA-AGI/zephyr-7b-sft-full-SPIN-iter"


def unresolved(t: int, short: str) -> Anchor:
    return Anchor(note=f"{RELEASED}{t}: revision known as {short} only; read the 40-hex commit off the Hub and pin it")


base = load("zephyr-7b")

recipe = replace(
    base,
    name="zephyr-7b-anchors",
    summary="the released checkpoints, evaluated here: does our evaluation differ, or our training?",
    iterations=(),
    benchmarks=tuple(benchmark for benchmark in base.benchmarks if benchmark.name != "held_out"),  # it needs an opponent
    anchors={
        "sft": Anchor(model=base.sft_model),
        "iter0": Anchor(
            model=ModelRef(source="hub", name=f"{RELEASED}0", revision="c3ded03435b33b647eb045e15b0c56862632b27d"),
            note="a later main; the weights came with a36a681",
        ),
        "iter1": unresolved(1, "5b69325"),
        "iter2": unresolved(2, "32d993c"),
        "iter3": unresolved(3, "ec8d16d"),
    },
    because={"iterations": "nothing is trained"},
)
