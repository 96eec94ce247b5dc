"""Who ran SPIN again, and what they got."""

from __future__ import annotations

from harness.analysis.record.table import (
    ARC,
    GSM,
    HS,
    MEAN_6,
    MEAN_10,
    MMLU,
    MT,
    MT_BENCH,
    NO_HARNESS,
    SFT,
    TQA,
    TSPIN,
    WG,
    Column,
    Table,
    iterations,
    unstated,
)
from harness.paper import NOT_STATED

JOYYANG = "github Joyyang158/self-improvement-of-LLMs, README at 43ad657"
ARGILLA = "argilla/distilabel repository and model cards"
TSPIN_PAPER = "arXiv 2601.08198"

# Its column heads give the shots, and a metric for TruthfulQA alone.
_JOYYANG_TASKS = tuple(column if column is TQA else column._replace(metric=NOT_STATED) for column in (ARC, TQA, WG, GSM, HS, MMLU))

TSPIN_TEN = (
    Column("gsm8k", "acc", 5),
    Column("math", "acc", 4),
    Column("musr", "acc_norm", 0),
    MMLU,
    Column("mmlu_pro", "acc", 5),
    Column("gpqa", "acc_norm", 0),
    HS,
    WG._replace(n=None),
    Column("bbh", "acc_norm", 3),
    Column("ifeval", "acc", 0),
    MEAN_10,
)
"""T-SPIN's tasks with the shots and metrics of its Table 3. Not all of its GSM8K and WG values are fractions of their questions."""
TSPIN_SHORT = (MEAN_10, TSPIN_TEN[0])
_NOTHING = (None,) * (len(TSPIN_TEN) - 1)

_HELD_OUT = (
    Column("held_out_loss", "SPIN loss in nats a pair, on pairs held out"),
    Column("held_out_rewards/real", "beta x log-ratio of the real response, on pairs held out"),
    Column("held_out_rewards/generated", "beta x log-ratio of the generated response, on pairs held out"),
    Column("held_out_rewards/accuracy", "share of the pairs held out, 0 to 1"),
)

TABLES = (
    Table(
        "rerun/joyyang158", "rerun", JOYYANG, NO_HARNESS, (*_JOYYANG_TASKS, MEAN_6),
        (
            ("sft", SFT, (57.08, 40.38, 76.16, 31.84, 81.02, 58.77, 57.54)),
            *iterations(
                "its own SPIN",
                (59.22, 46.15, 76.80, 28.89, 82.60, 59.01, 58.78), (58.53, 43.41, 76.01, 31.61, 81.72, 58.46, 58.29),
                (59.04, 43.28, 76.09, 27.60, 81.97, 58.50, 57.75), (58.19, 45.15, 75.61, 27.52, 81.81, 57.86, 57.69),
            ),
        ),
        note="revision of the base not stated; six-task means recomputed by us, theirs averages eight tasks",
    ),
    Table(
        "rerun/joyyang158_llama2", "rerun", JOYYANG, NO_HARNESS, (MEAN_6,),
        (
            ("sft", "Llama-2-7b-ultrachat200k", (50.81,)),
            *iterations("its own SPIN", (52.49,), (52.68,), (52.51,), (52.49,)),
        ),
        note="six-task means recomputed by us, theirs averages eight tasks",
    ),
    Table(
        "rerun/issue12", "rerun", "uclaml/SPIN issue 12", NO_HARNESS, (unstated(ARC),),
        (
            ("sft", "base of the run", (58.19,)),
            *((f"iter0@epoch{e}", "its own SPIN iter0", (v,)) for e, v in ((1, 59.90), (2, 59.64), (3, 59.04))),
        ),
        note="default config of the release; an issue thread, not a report", grade="B",
    ),
    Table(
        "rerun/argilla_mt_bench", "rerun", ARGILLA, MT, MT_BENCH,
        (("sft", "its own SFT", (6.34,)), *iterations("its own SPIN", (6.41,), (6.60,), (6.73,), (6.77,))),
        note="its sft baseline, 6.34, is not the paper's 5.94",
    ),
    Table(
        "rerun/argilla_held_out", "rerun", "argilla's model cards", "184 DIBT prompts held out", _HELD_OUT,
        (
            ("iter2", "its own SPIN iter2", (0.1253, -0.568, -4.954, 0.948)),
            ("iter3", "its own SPIN iter3", (0.1099, -2.918, -29.697, 0.927)),
        ),
        note="against the opponent of each iteration; other iterations were not read",
    ),
    Table(
        "rerun/tspin_zephyr", "rerun", f"{TSPIN_PAPER} Table 1, Zephyr SPIN", TSPIN, TSPIN_TEN,
        (
            ("base", "Zephyr, base of the run", (25.85, 1.75, 38.92, 56.90, 28.88, 28.91, 82.79, 74.19, 44.60, 2.76, 38.56)),
            ("sft200k", "Zephyr, SFT on 200k", (42.25, 3.10, 39.18, 57.29, 29.19, 28.28, 83.44, 73.16, 44.90, 19.31, 42.01)),
            ("sft50k", "Zephyr, SFT on the 50k, 2 epochs", (*_NOTHING, 40.65)),
            *iterations(
                "its own SPIN",
                (30.06, 4.46, 41.67, 56.25, 28.39, 29.53, 84.29, 73.56, 44.41, 8.12, 40.07),
                (32.47, 3.05, 39.02, 56.86, 27.88, 29.06, 83.76, 73.72, 44.59, 7.95, 39.84),
                (36.62, 2.57, 41.27, 57.74, 28.67, 28.39, 83.75, 73.95, 43.95, 14.46, 41.14),
                (33.32, 2.75, 39.41, 55.88, 27.98, 27.61, 82.64, 74.19, 43.19, 22.25, 40.92),
                (35.54, 2.72, 38.21, 53.59, 25.95, 26.21, 83.48, 74.51, 43.10, 22.88, 40.62),
            ),
        ),
        note="no ARC or TruthfulQA, so no six-task mean exists",
        row_notes=(("sft50k", "its Table 2; the mean alone"),),
    ),
    Table(
        "rerun/tspin_mistral", "rerun", f"{TSPIN_PAPER}, Mistral SPIN", TSPIN, TSPIN_SHORT,
        (
            ("base", "Mistral, base of the run", (42.51, 37.68)),
            ("sft200k", "Mistral, SFT on 200k", (44.17, None)),
            *iterations("SPIN", (42.60, 39.59), (42.52, 39.67), (42.30, 39.52), (41.30, 37.34), (42.32, 37.15)),
        ),
    ),
)  # fmt: skip
