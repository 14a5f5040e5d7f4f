"""How much of a loss of diversity finite samples alone, and the temperature alone, would have caused.

A split by reference learners under the same cycle and seeds, seed by seed:

    lost        real data - transformer
    sampling    real data - `resample`, which loses nothing but by chance
    decoding    real data - `oracle`, which loses nothing but by the temperature
    model       what is left of the loss

It is a difference between loops, not a decomposition into causes that add up: what temperature and chance do to a model
is handed on to the next one and grows, which no reference shows, so all of that is in `model`. A negative part says
that the transformer keeps more than the reference: a model that smooths may hold what a memoriser loses by chance.
"""

import math

import pandas as pd

from jaxloop.tables import LEARNER, cells_of

_REFERENCES = {"sampling": "resample", "decoding": "oracle"}


def split_rows(metrics: pd.DataFrame, axes: list[str]) -> list[dict]:
    """The rows of split.csv: for each cell and generation the parts of the loss, means over seeds with standard errors.

    None of cells that lack the transformer or one of the two references. The real diversity is that of the cell's own
    first data, seed by seed. A standard error of a single seed is not a number.

    Args:
      metrics: the rows of metrics.csv.
      axes: the axes of the grid, which are columns of `metrics`.
    """
    if LEARNER not in axes:
        return []
    rows = []
    for cell in cells_of(metrics, [axis for axis in axes if axis != LEARNER]):
        by_learner = cell.rows.pivot(index=["generation", "seed"], columns=LEARNER, values="diversity")
        if not {"transformer", *_REFERENCES.values()} <= set(by_learner):
            continue
        first = cell.rows[(cell.rows["generation"] == 0) & (cell.rows[LEARNER] == "transformer")]
        real = by_learner.index.get_level_values("seed").map(first.set_index("seed")["training_diversity"])
        lost = {name: real - by_learner[learner] for name, learner in _REFERENCES.items()}
        parts = pd.DataFrame({"lost": real - by_learner["transformer"], **lost}).dropna()
        parts["model"] = parts["lost"] - parts["sampling"] - parts["decoding"]
        for generation, of_seeds in parts.groupby(level="generation"):
            row = {"control": int(cell.control), **cell.axes, "generation": generation, "seeds": len(of_seeds)}
            for name, values in of_seeds.items():
                row[f"{name}_diversity"] = float(values.mean())
                row[f"{name}_standard_error"] = float(values.std(ddof=1) / math.sqrt(len(values)))
            rows.append(row)
    return rows
