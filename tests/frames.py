"""Metrics as they are read from disk, with a truth that is planted."""

import math

import numpy as np
import pandas as pd

from jaxloop.analysis.cells import as_frame
from jaxloop.analysis.collapse import collapse_rows
from jaxloop.analysis.summary import summary_rows
from jaxloop.systems.logic.columns import COLUMNS

SHARE = "cycle.fresh_share"
REAL = 0.5
NO_TAILS = as_frame([], "tails")


def table(cells: list[dict], seeds=(0, 1, 2, 3, 4), generations=9) -> pd.DataFrame:
    """Metrics as they are read from disk: each cell has its axes and `kept`, a function of seed and generation.

    A cell may have a `control`, `seeds`, a `true` share, and `length`, a function of the seed: how many generations its
    loop made.
    """
    rows, loop = [], 0
    for cell in cells:
        for seed in cell.get("seeds", seeds):
            for generation in range(cell.get("length", lambda seed: generations)(seed)):
                kept = cell["kept"](seed, generation)
                known = {"true_share": cell.get("true", 0.9), "false_share": 0.1, "invalid_share": 0.0}
                distances = {"total_variation": 1 - min(kept, 1), "forward_kl_nats": cell.get("forward", 0.5)}
                losses = dict.fromkeys(
                    ("untempered_forward_kl_nats", "untempered_forward_kl_standard_error_nats"), math.inf
                )
                rows.append(
                    {"loop": loop, "seed": seed, "generation": generation}
                    | cell["axes"]
                    | {"control": cell.get("control", 0), "diversity": kept * REAL, "training_diversity": REAL}
                    | {"outside_share": 0.1, "held_out_nats": 4.0, "source_entropy_nats": 4.0, "alive_share": ""}
                    | {"unique_share": 0.5}
                    | known
                    | distances
                    | losses
                )
            loop += 1
    axes = dict.fromkeys(name for cell in cells for name in cell["axes"])
    text = [{name: str(row.get(name, "")) for name in (*axes, *row)} for row in rows]
    return as_frame(text, "metrics")


def summed(metrics: pd.DataFrame, axes: list[str], provenance=()) -> list[dict]:
    return summary_rows(
        metrics, collapse_rows(metrics, NO_TAILS, axes), as_frame(list(provenance), "provenance"), axes, COLUMNS
    )


NOISE = np.random.default_rng(0).normal(0, 0.02, 100)


def level(height: float, spread: float = 1.0):
    """Kept diversity of this height in the end, with what seeds share and a little of their own."""
    return lambda seed, generation: 1 - (1 - height) * generation / 8 + spread * NOISE[seed] * (generation > 0)
