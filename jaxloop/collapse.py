"""What "collapse" means: eight definitions, each with its number, its criterion and the generation that meets it.

The definitions are those that Schaeffer et al. (arXiv 2503.03150) found in the literature; the criteria are ours, and a
reader who prefers others finds the numbers in metrics.csv and tails.csv. No definition is *the* meaning of the word: a
loop may meet some and never others.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd

ANY_RISE_ERRORS = 2.0
VANISHED_SHARE = 0.1
MODE_TENTHS = 5
LOST_SHARE = 0.5
OUTSIDE_SHARE = 0.05
CATASTROPHIC_ENTROPIES = 2.0

_ROUNDING_NATS = 1e-6

# Labels of tails.csv: 1 has the most probable expressions.
_MODE_LABELS = [str(tenth) for tenth in range(1, MODE_TENTHS + 1)]
_TAIL_LABEL = "10"


class Meaning(NamedTuple):
    """One definition: a number for each generation, and when it counts as met."""

    name: str
    criterion: str
    number: Callable[[pd.DataFrame, pd.DataFrame], pd.Series]  # a loop's metrics and tails, by generation -> numbers
    met: Callable[[pd.Series], pd.Series]  # of those, which meet the criterion


def _loss_in_entropies(metrics: pd.DataFrame, tails: pd.DataFrame) -> pd.Series:
    return metrics["held_out_nats"] / metrics["source_entropy_nats"]


def _rise_in_errors(metrics: pd.DataFrame, tails: pd.DataFrame) -> pd.Series:
    """The rise of the loss since generation 0 over its standard error, as if the two were independent: cautious."""
    loss, error = metrics["untempered_forward_kl_nats"], metrics["untempered_forward_kl_standard_error_nats"]
    if 0 not in loss.index or not math.isfinite(loss.loc[0]):
        return pd.Series(math.nan, loss.index)
    rise = (loss - loss.loc[0]) / np.hypot(error, error.loc[0])
    return rise.where(np.isfinite(loss), math.inf).where(loss.notna()).where(loss.index != 0, 0.0)


def _late_slope_in_errors(metrics: pd.DataFrame, tails: pd.DataFrame) -> pd.Series:
    """Least-squares slope of the loss over the second half of the generations, over its standard error.

    A number of the last generation only: it needs them all.
    """
    loss = metrics["held_out_nats"].dropna()
    slopes = pd.Series(math.nan, metrics.index)
    late = loss[loss.index >= metrics.index.max() / 2]
    if len(late) < 4 or not np.all(np.isfinite(late)):
        return slopes
    generation = late.index.to_numpy(float) - np.mean(late.index)
    slope = generation @ late.to_numpy() / (generation @ generation)
    residual = late.to_numpy() - late.mean() - slope * generation
    # What rises by less than rounding does not rise, and its error means nothing.
    error = max(math.sqrt(residual @ residual / (len(late) - 2) / (generation @ generation)), _ROUNDING_NATS)
    slopes.iloc[-1] = slope / error
    return slopes


def _kept_diversity(metrics: pd.DataFrame, tails: pd.DataFrame) -> pd.Series:
    first = metrics["training_diversity"].iloc[0]
    return metrics["diversity"] / (first if first > 0 else math.nan)


def _alive_modes(metrics: pd.DataFrame, tails: pd.DataFrame) -> pd.Series:
    """Alive share of the first data set's expressions in the more probable half of the source."""
    tenths = tails[(tails["classes"] == "tenth") & tails["class"].isin(_MODE_LABELS)]
    alive = (tenths["alive_share"] * tenths["first_expressions"]).groupby(tenths["generation"]).sum()
    return (alive / tenths["first_expressions"].groupby(tenths["generation"]).sum()).reindex(metrics.index)


def _kept_tail(metrics: pd.DataFrame, tails: pd.DataFrame) -> pd.Series:
    """The model's mass in the least probable tenth of the source, as a part of the source's."""
    tenth = tails[(tails["classes"] == "tenth") & (tails["class"] == _TAIL_LABEL)].set_index("generation")
    return (tenth["model_share"] / tenth["source_share"]).reindex(metrics.index)


MEANINGS = (
    Meaning(
        "catastrophic rise of the loss",
        f"held-out nats at least {CATASTROPHIC_ENTROPIES:g} times the source's entropy",
        _loss_in_entropies,
        lambda number: number >= CATASTROPHIC_ENTROPIES,
    ),
    Meaning(
        "any rise of the loss",
        f"held-out nats above generation 0's by more than {ANY_RISE_ERRORS:g} standard errors",
        _rise_in_errors,
        lambda number: number > ANY_RISE_ERRORS,
    ),
    Meaning(
        "loss without bound",
        f"held-out nats still rise in the second half: slope above {ANY_RISE_ERRORS:g} standard errors",
        _late_slope_in_errors,
        lambda number: number > ANY_RISE_ERRORS,
    ),
    Meaning(
        "vanishing variance",
        f"diversity of the samples below {VANISHED_SHARE:g} of the first real data's",
        _kept_diversity,
        lambda number: number < VANISHED_SHARE,
    ),
    Meaning(
        "another scaling law",
        "a matter of loops over several sizes of data: no number in a single loop",
        lambda metrics, tails: pd.Series(math.nan, metrics.index),
        lambda number: number.notna(),
    ),
    Meaning(
        "loss of modes",
        f"less than {LOST_SHARE:g} of the first data's expressions in the source's tenths 1 to {MODE_TENTHS} alive",
        _alive_modes,
        lambda number: number < LOST_SHARE,
    ),
    Meaning(
        "loss of the tail",
        f"the source's least probable tenth has less than {LOST_SHARE:g} of its mass in the model",
        _kept_tail,
        lambda number: number < LOST_SHARE,
    ),
    Meaning(
        "false or impossible output",
        f"more than {OUTSIDE_SHARE:g} of the samples outside the source's support",
        lambda metrics, tails: metrics["outside_share"],
        lambda number: number > OUTSIDE_SHARE,
    ),
)


def collapse_rows(metrics: pd.DataFrame, tails: pd.DataFrame, axes: list[str]) -> list[dict]:
    """The rows of collapse.csv: for each loop and each meaning its number, and the generation that met it first.

    Args:
      metrics: the rows of metrics.csv.
      tails: the rows of tails.csv.
      axes: the axes of the grid, which are columns of `metrics`.
    """
    rows = []
    for loop, of_loop in metrics.groupby("loop"):
        of_loop = of_loop.sort_values("generation").set_index("generation")
        tails_of_loop = tails[tails["loop"] == loop]
        first = of_loop.iloc[0]
        for meaning in MEANINGS:
            number = meaning.number(of_loop, tails_of_loop)
            known = number.dropna()
            rows.append(
                {
                    "loop": int(loop),
                    "seed": int(first["seed"]),
                    **{axis: first[axis] for axis in axes},
                    "control": int(first["control"]),
                    "meaning": meaning.name,
                    "criterion": meaning.criterion,
                    "first_number": float(known.iloc[0]) if len(known) else math.nan,
                    "last_number": float(known.iloc[-1]) if len(known) else math.nan,
                    "met_in_generation": _first_generation(number, meaning.met(number)),
                }
            )
    return rows


def half_life_rows(metrics: pd.DataFrame, tails: pd.DataFrame, axes: list[str]) -> list[dict]:
    """The rows of half_lives.csv: when each tenth of the source had lost half of its mass, and of its expressions.

    Args:
      metrics, tails, axes: as `collapse_rows` takes them.
    """
    first = metrics[metrics["generation"] == 0].set_index("loop")
    tenths = tails[(tails["classes"] == "tenth") & tails["loop"].isin(first.index)]
    rows = []
    for (loop, label), of_tenth in tenths.groupby(["loop", "class"]):
        of_tenth = of_tenth.set_index("generation").sort_index()
        kept = {
            "lost_half_of_mass_in_generation": of_tenth["model_share"] / of_tenth["source_share"],
            "half_dead_in_generation": of_tenth["alive_share"],
        }
        rows.append(
            {
                "loop": int(loop),
                "seed": int(first.loc[loop, "seed"]),
                **{axis: first.loc[loop, axis] for axis in axes},
                "control": int(first.loc[loop, "control"]),
                "tenth": int(label),
                **{name: _first_generation(share, share < LOST_SHARE) for name, share in kept.items()},
            }
        )
    return sorted(rows, key=lambda row: (row["loop"], row["tenth"]))


def _first_generation(number: pd.Series, met: pd.Series) -> int | str:
    """The generation that met a criterion first, in words if none did."""
    if number.isna().all():
        return "not measured"
    return int(number.index[met][0]) if met.any() else f"not by generation {number.dropna().index.max()}"
