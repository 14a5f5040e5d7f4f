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

# Labels of tails.csv: 1 has the most probable rows.
_MODE_LABELS = [str(tenth) for tenth in range(1, MODE_TENTHS + 1)]
_TAIL_LABEL = "10"


class Met(NamedTuple):
    """When a loop met a criterion first; its text is what stands in a table."""

    generation: int  # in which it did, or until which it was watched; -1: never
    observed: bool  # whether it did

    def __str__(self) -> str:
        if self.observed:
            return str(self.generation)
        return "not measured" if self.generation < 0 else f"not by generation {self.generation}"


class Meaning(NamedTuple):
    """One definition: a number for each generation, and when it counts as met."""

    name: str
    criterion: str
    # Metrics by loop and generation, in order, and the tails of tenths -> numbers in the order of the metrics.
    number: Callable[[pd.DataFrame, pd.DataFrame], pd.Series]
    met: Callable[[pd.Series], pd.Series]  # of those, which meet the criterion


def _column(metrics: pd.DataFrame, name: str) -> pd.Series:
    """One of the standard columns; not a number where the system does not measure it."""
    return metrics[name] if name in metrics else pd.Series(math.nan, metrics.index, name=name)


def _loss_in_entropies(metrics: pd.DataFrame, tenths: pd.DataFrame) -> pd.Series:
    return _column(metrics, "held_out_nats") / _column(metrics, "source_entropy_nats")


def _rise_in_errors(metrics: pd.DataFrame, tenths: pd.DataFrame) -> pd.Series:
    """The rise of the loss since generation 0 over its standard error, as if the two were independent: cautious."""
    columns = ["untempered_forward_kl_nats", "untempered_forward_kl_standard_error_nats"]
    loss, error = (_column(metrics, column) for column in columns)
    loop, generation = (metrics.index.get_level_values(level) for level in ("loop", "generation"))
    first = pd.concat([loss, error], axis=1).loc[generation == 0].droplevel("generation").reindex(loop).to_numpy(float)
    rise = (loss - first[:, 0]) / np.hypot(error, first[:, 1])
    rise = rise.where(np.isfinite(loss), math.inf).where(loss.notna()).where(generation != 0, 0.0)
    return rise.where(np.isfinite(first[:, 0]))


def _late_slope_in_errors(metrics: pd.DataFrame, tenths: pd.DataFrame) -> pd.Series:
    """Least-squares slope of the loss over the second half of the generations, over its standard error.

    A number of the last generation only: it needs them all.
    """
    loss_N, generation_N = (
        _column(metrics, "held_out_nats").to_numpy(float),
        metrics.index.get_level_values("generation"),
    )
    generation_N, slope_N = generation_N.to_numpy(), np.full(len(metrics), math.nan)
    for begin, end in _borders(metrics, ["loop"]).tolist():
        slope_N[end - 1] = _late_slope(generation_N[begin:end], loss_N[begin:end])
    return pd.Series(slope_N, metrics.index)


def _late_slope(generation_G: np.ndarray, loss_G: np.ndarray) -> float:
    late_G = ~np.isnan(loss_G) & (generation_G >= generation_G.max() / 2)
    generation_G, loss_G = generation_G[late_G], loss_G[late_G]
    if len(loss_G) < 4 or not np.all(np.isfinite(loss_G)):
        return math.nan
    generation_G = generation_G - np.mean(generation_G)
    slope = float(generation_G @ loss_G / (generation_G @ generation_G))
    residual_G = loss_G - loss_G.mean() - slope * generation_G
    # What rises by less than rounding does not rise, and its error means nothing.
    error = max(math.sqrt(residual_G @ residual_G / (len(loss_G) - 2) / (generation_G @ generation_G)), _ROUNDING_NATS)
    return slope / error


def _kept_diversity(metrics: pd.DataFrame, tenths: pd.DataFrame) -> pd.Series:
    first = metrics["training_diversity"].groupby(level="loop").head(1).droplevel("generation")
    first = first.reindex(metrics.index.get_level_values("loop")).set_axis(metrics.index)
    return metrics["diversity"] / first.where(first > 0)


def _alive_modes(metrics: pd.DataFrame, tenths: pd.DataFrame) -> pd.Series:
    """Alive share of the first data set's rows in the more probable half of the source."""
    tenths = tenths[tenths["class"].isin(_MODE_LABELS)]
    place = [tenths["loop"], tenths["generation"]]
    alive = (tenths["alive_share"] * tenths["first_rows"]).groupby(place).sum(min_count=1)
    return (alive / tenths["first_rows"].groupby(place).sum()).reindex(metrics.index)


def _kept_tail(metrics: pd.DataFrame, tenths: pd.DataFrame) -> pd.Series:
    """The model's mass in the least probable tenth of the source, as a part of the source's."""
    tenth = tenths[tenths["class"] == _TAIL_LABEL].set_index(["loop", "generation"])
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
        lambda metrics, tenths: pd.Series(math.nan, metrics.index),
        lambda number: number.notna(),
    ),
    Meaning(
        "loss of modes",
        f"less than {LOST_SHARE:g} of the first data's rows in the source's tenths 1 to {MODE_TENTHS} alive",
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
        lambda metrics, tenths: _column(metrics, "outside_share"),
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
    metrics = metrics.sort_values(["loop", "generation"]).set_index(["loop", "generation"])
    tenths, borders = tails[tails["classes"] == "tenth"], _borders(metrics, ["loop"])
    columns = []
    for meaning in MEANINGS:
        number = meaning.number(metrics, tenths).astype(float)
        of_loops = zip(
            *_ends_known(number, borders), _first_generations(number, meaning.met(number), borders), strict=True
        )
        columns.append([(meaning.name, meaning.criterion, *numbers) for numbers in of_loops])
    names = ("meaning", "criterion", "first_number", "last_number", "met_in_generation")
    rows = []
    for (begin, _), of_meanings in zip(borders.tolist(), zip(*columns, strict=True), strict=True):
        first = metrics.iloc[begin]
        place = {
            "loop": int(first.name[0]),
            "seed": int(first["seed"]),
            **{axis: first[axis] for axis in axes},
            "control": int(first["control"]),
        }
        rows += [{**place, **dict(zip(names, numbers, strict=True))} for numbers in of_meanings]
    return rows


def half_life_rows(metrics: pd.DataFrame, tails: pd.DataFrame, axes: list[str]) -> list[dict]:
    """The rows of half_lives.csv: when each tenth of the source had lost half of its mass, and of its rows.

    Args:
      metrics, tails, axes: as `collapse_rows` takes them.
    """
    first = metrics[metrics["generation"] == 0].set_index("loop")
    tenths = tails[(tails["classes"] == "tenth") & tails["loop"].isin(first.index)]
    tenths = tenths.assign(tenth=tenths["class"].astype(int)).sort_values(["loop", "tenth", "generation"])
    tenths = tenths.set_index(["loop", "tenth", "generation"])
    borders = _borders(tenths, ["loop", "tenth"])
    kept = {
        "lost_half_of_mass_in_generation": tenths["model_share"] / tenths["source_share"],
        "half_dead_in_generation": tenths["alive_share"],
    }
    found = [_first_generations(share, share < LOST_SHARE, borders) for share in kept.values()]
    places = first[["seed", *axes, "control"]].astype({"seed": int, "control": int}).to_dict("index")
    return [
        {"loop": loop, **places[loop], "tenth": tenth, **dict(zip(kept, generations, strict=True))}
        for (loop, tenth, _), *generations in zip(tenths.index[borders[:, 0]], *found, strict=True)
    ]


def _borders(frame: pd.DataFrame, levels: list[str]) -> np.ndarray:
    """Where the rows of each group begin and end, (groups, 2), of a frame in the order of these levels."""
    keys = [frame.index.get_level_values(level).to_numpy() for level in levels]
    changes = np.any([key[1:] != key[:-1] for key in keys], axis=0)
    border = np.concatenate([[0], np.flatnonzero(changes) + 1, [len(frame)]])
    return np.stack([border[:-1], border[1:]], axis=1)[: len(frame)]


def _ends_known(number: pd.Series, borders: np.ndarray) -> tuple[list[float], list[float]]:
    """The first and the last number of each group that is one, and not a number where it has none."""
    known_N = np.flatnonzero(number.notna())
    value_K = np.append(number.to_numpy()[known_N], math.nan)
    begin, end = np.searchsorted(known_N, borders).T
    some = begin < end
    return value_K[np.where(some, begin, -1)].tolist(), value_K[np.where(some, end - 1, -1)].tolist()


def _first_generations(number: pd.Series, met: pd.Series, borders: np.ndarray) -> list[Met]:
    """When each group met a criterion first."""
    generation_N = number.index.get_level_values("generation").to_numpy()
    known_N, met_N = np.flatnonzero(number.notna()), np.flatnonzero(met)
    places = np.searchsorted(known_N, borders), np.searchsorted(met_N, borders)
    found = []
    for (known_begin, known_end), (met_begin, met_end) in zip(*(place.tolist() for place in places), strict=True):
        if known_begin == known_end:
            found.append(Met(-1, False))
        elif met_begin < met_end:
            found.append(Met(int(generation_N[met_N[met_begin]]), True))
        else:
            found.append(Met(int(generation_N[known_N[known_end - 1]]), False))
    return found
