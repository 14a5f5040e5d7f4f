"""The split of a loss of diversity, on numbers whose parts are known."""

import math

import pandas as pd
import pytest

from jaxloop.analysis.attribution import split_rows

AXES = ["cycle.fresh_share", "learner.name"]
KEPT = {"transformer": 0.5, "resample": 0.9, "oracle": 0.95, "grammar": 0.1}


def table(seeds=(3, 4), learners=tuple(KEPT), generations=3) -> pd.DataFrame:
    """Seeds of different real diversity, whose loops keep a known part of it, less in later generations."""
    rows = []
    for seed in seeds:
        for share in (0.0, 0.5):
            for learner in learners:
                for generation in range(generations):
                    kept = 1 - (1 - KEPT[learner]) * (generation + 1) * (1 - share)
                    rows.append(
                        {
                            "seed": seed,
                            "generation": generation,
                            "control": 0,
                            "cycle.fresh_share": share,
                            "learner.name": learner,
                            "diversity": seed / 10 * kept,
                            "training_diversity": seed / 10 if generation == 0 else 0.0,
                        }
                    )
    return pd.DataFrame(rows).sample(frac=1, random_state=0)


def test_the_parts_are_differences_within_seeds():
    """Catches parts of another cell, generation or seed, and an error of unpaired differences."""
    rows = split_rows(table(), AXES)
    assert len(rows) == 2 * 3
    for row in rows:
        steps = (row["generation"] + 1) * (1 - row["cycle.fresh_share"])
        assert row["seeds"] == 2 and row["control"] == 0
        for name, share in (("lost", 0.5), ("sampling", 0.1), ("decoding", 0.05), ("model", 0.35)):
            assert row[f"{name}_diversity"] == pytest.approx(0.35 * share * steps)
            # Two seeds of 0.3 and 0.4: half of their difference.
            assert row[f"{name}_standard_error"] == pytest.approx(0.05 * share * steps)


def test_generations_that_not_every_learner_has_reached_are_left_out():
    """Catches a split of an interrupted run that compares a loop with nothing."""
    metrics = table()
    missing = (metrics["learner.name"] == "oracle") & (metrics["generation"] == 2)
    assert {row["generation"] for row in split_rows(metrics[~missing], AXES)} == {0, 1}


def test_there_is_no_split_without_its_references():
    """Catches a traceback at the end of a run that has no references, or one seed."""
    assert split_rows(table(learners=("transformer", "resample")), AXES) == []
    assert split_rows(table(learners=("transformer",)).drop(columns="learner.name"), AXES[:1]) == []
    (*_, row) = split_rows(table(seeds=(3,)), AXES)
    assert math.isnan(row["lost_standard_error"]) and math.isfinite(row["lost_diversity"])


def test_each_cell_has_its_own_real_data():
    """Catches the first cell's real diversity for all, where an axis changes the first data: lost 0.275 for 0.075."""
    metrics = table().rename(columns={"cycle.fresh_share": "cycle.first_mass_share"})
    narrow = metrics["cycle.first_mass_share"] == 0.5
    metrics.loc[narrow, ["diversity", "training_diversity"]] /= 2
    rows = split_rows(metrics, ["cycle.first_mass_share", "learner.name"])
    lost = {(row["cycle.first_mass_share"], row["generation"]): row["lost_diversity"] for row in rows}
    assert lost[0.0, 0] == pytest.approx(0.35 * 0.5)
    assert lost[0.5, 0] == pytest.approx(0.35 / 2 * 0.5 * 0.5)
    assert all(row["model_diversity"] >= 0 for row in rows)


@pytest.mark.parametrize("unset", [math.nan, None])
def test_a_cell_with_an_unset_axis_is_not_dropped(unset):
    """Catches groups by an axis that leave out the cells in which it is unset."""
    metrics = table().rename(columns={"cycle.fresh_share": "cycle.generated_share"})
    whole = split_rows(metrics, ["cycle.generated_share", "learner.name"])
    metrics["cycle.generated_share"] = (
        metrics["cycle.generated_share"].astype(object).where(lambda share: share > 0, unset)
    )
    rows = split_rows(metrics, ["cycle.generated_share", "learner.name"])
    assert len(rows) == len(whole) == 6
    assert [row["lost_diversity"] for row in rows] == [row["lost_diversity"] for row in whole]


def test_a_cell_without_its_references_costs_no_other_cell_its_split():
    """Catches an exception, or an empty table, where one cell has diverged or has not begun."""
    metrics = table()
    gone = (metrics["cycle.fresh_share"] == 0.5) & (metrics["learner.name"] == "oracle")
    assert [row["cycle.fresh_share"] for row in split_rows(metrics[~gone], AXES)] == [0.0] * 3


def test_rows_stand_in_the_order_of_the_values():
    """Catches a table whose bytes change, though its numbers do not, with the order of a grid."""
    shares = [row["cycle.fresh_share"] for row in split_rows(table().sort_values("cycle.fresh_share")[::-1], AXES)]
    assert shares == [0.0] * 3 + [0.5] * 3
