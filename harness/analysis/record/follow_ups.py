"""What other objectives got in the papers that follow SPIN."""

from __future__ import annotations

from harness.analysis.record.reruns import TSPIN_PAPER, TSPIN_TEN
from harness.analysis.record.table import MEAN_10, TSPIN, Column, Table, iterations

TABLES = (
    Table(
        "follow_up/tspin_zephyr", "rerun", f"{TSPIN_PAPER} Table 1, Zephyr T-SPIN", TSPIN, TSPIN_TEN,
        iterations(
            "T-SPIN",
            (36.20, 3.29, 37.05, 56.42, 28.88, 28.05, 82.97, 73.48, 44.17, 7.02, 39.75),
            (40.64, 3.68, 37.84, 56.89, 29.13, 28.92, 82.95, 73.72, 44.82, 26.98, 42.56),
            (40.69, 3.63, 38.91, 56.89, 29.26, 29.40, 83.37, 73.64, 44.48, 27.67, 42.79),
            (40.71, 3.82, 39.18, 57.67, 29.37, 30.12, 83.30, 73.74, 45.27, 29.15, 43.23),
            (40.67, 3.84, 39.72, 57.68, 29.32, 30.44, 83.12, 73.80, 45.00, 31.08, 43.47),
        ),
        note="another objective; its base and sft200k rows are those of rerun/tspin_zephyr",
    ),
    Table(
        "follow_up/tspin_zephyr_without_history", "rerun", f"{TSPIN_PAPER} Table 2", TSPIN, (MEAN_10,),
        iterations("T-SPIN, beta 0,", (39.75,), (39.45,), (41.63,), (41.64,), (41.79,)),
        note="T-SPIN without its historical term; the mean alone",
    ),
    Table(
        "follow_up/tspin_mistral", "rerun", f"{TSPIN_PAPER}, Mistral T-SPIN", TSPIN, (MEAN_10,),
        iterations("T-SPIN", (42.71,), (43.32,), (43.56,), (44.90,), (45.02,)),
        note="another objective; its base and sft200k rows are those of rerun/tspin_mistral",
    ),
    *(
        Table(
            f"follow_up/sppo_{name}", "rerun", "arXiv 2405.00675, README of its code", "AlpacaEval 2",
            (Column("alpaca_eval2_lc", "length-controlled win rate"),),
            tuple((row, f"{model} SPPO {row}", (value,)) for row, value in rows.items()),
            note="another objective; SPPO counts its iterations from 1",
        )
        for name, model, rows in (
            ("mistral", "Mistral", {"base": 17.11, "it1": 24.79, "it2": 26.89, "it3": 28.53}),
            ("llama3", "Llama-3", {"base": 22.92, "it1": 31.73, "it2": 35.15, "it3": 38.77}),
            ("gemma2", "Gemma-2", {"base": 45.08, "it1": 48.70, "it2": 50.93, "it3": 53.27}),
        )
    ),
)  # fmt: skip
