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

from jaxloop.analysis.cells import LEARNER

_REFERENCES = {"sampling": "resample", "decoding": "oracle"}


def split_rows(metrics: pd.DataFrame, axes: list[str]) -> list[dict]:
    """The rows of split.csv: for each cell and generation the parts of the loss, means over seeds with standard errors.

    None of cells that lack the transformer or one of the two references. The real diversity is that of the cell's own
    first data, seed by seed. A standard error of a single seed is not a number.

    Args:
      metrics: the rows of metrics.csv.
      axes: the axes of the grid, which are columns of `metrics`.
    """
    if LEARNER not in axes or not {"transformer", *_REFERENCES.values()} <= set(metrics[LEARNER]):
        return []
    # Sorted by their values, where an axis that is unset is one as well.
    place = ["control", *(axis for axis in axes if axis != LEARNER)]
    metrics = metrics.assign(cell=metrics.groupby(place, dropna=False).ngroup())
    by_learner = metrics.pivot(index=["cell", "generation", "seed"], columns=LEARNER, values="diversity")
    first = metrics[(metrics["generation"] == 0) & (metrics[LEARNER] == "transformer")]
    real = first.set_index(["cell", "seed"])["training_diversity"]
    real = real.reindex(by_learner.droplevel("generation").index).to_numpy()
    lost = {name: real - by_learner[learner] for name, learner in _REFERENCES.items()}
    parts = pd.DataFrame({"lost": real - by_learner["transformer"], **lost}).dropna()
    parts["model"] = parts["lost"] - parts["sampling"] - parts["decoding"]

    places = metrics.drop_duplicates("cell").set_index("cell")[place].to_dict("index")
    columns = {name: values.to_numpy() for name, values in parts.items()}
    rows = []
    for (cell, generation), members in parts.groupby(level=["cell", "generation"]).indices.items():  # pyright: ignore[reportGeneralTypeIssues]
        seeds = len(members)
        row = {**places[cell], "generation": generation, "seeds": seeds}
        for name, values in columns.items():
            of_seeds = values[members]
            row[f"{name}_diversity"] = float(of_seeds.mean())
            row[f"{name}_standard_error"] = float(of_seeds.std(ddof=1) / math.sqrt(seeds)) if seeds > 1 else math.nan
        rows.append(row)
    return rows
