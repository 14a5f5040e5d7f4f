"""The meanings of collapse on courses whose answer is known."""

import math

import numpy as np
import pandas as pd
import pytest

from jaxloop.analysis.collapse import MEANINGS, collapse_rows, half_life_rows

GENERATIONS = 12


def course(**columns) -> dict[int, dict]:
    """A healthy loop, but for what is given: numbers by generation."""
    healthy = {
        "held_out_nats": 5.0,
        "source_entropy_nats": 4.0,
        "untempered_forward_kl_nats": 1.0,
        "untempered_forward_kl_standard_error_nats": 0.1,
        "diversity": 0.5,
        "training_diversity": 0.5,
        "outside_share": 0.01,
        "alive": 1.0,
        "tail": 1.0,
    }
    return {
        generation: {
            name: columns.get(name, lambda _, value=value: value)(generation) for name, value in healthy.items()
        }
        for generation in range(GENERATIONS)
    }


def verdicts(**columns) -> dict[str, object]:
    """In which generation each meaning was met, of a loop beside another one that is healthy."""
    metrics, tails = [], []
    for loop, numbers in enumerate((course(), course(**columns))):
        for generation, row in numbers.items():
            place = {"loop": loop, "seed": 7, "generation": generation}
            alive, tail = row.pop("alive"), row.pop("tail")
            metrics.append({**place, "control": 0, "cycle.fresh_share": 0.5, **row})
            for tenth in range(1, 11):
                tails.append(
                    {
                        **place,
                        "classes": "tenth",
                        "class": str(tenth),
                        "source_share": 0.1,
                        "model_share": 0.1 * (tail if tenth == 10 else 1),
                        # The modes are tenths 1 to 5: the others must not count.
                        "first_rows": 10.0 * tenth,
                        "alive_share": alive if tenth <= 5 else 0.0,
                    }
                )
            tails.append({**tails[-1], "classes": "depth", "class": "10", "model_share": 0.0, "alive_share": 0.0})
    # Rows come in the order in which loops were finished, not by loop.
    frame = pd.DataFrame(metrics).sample(frac=1, random_state=0)
    rows = collapse_rows(frame, pd.DataFrame(tails).sample(frac=1, random_state=0), ["cycle.fresh_share"])
    assert len(rows) == 2 * len(MEANINGS) == 16
    assert all(row["seed"] == 7 and row["cycle.fresh_share"] == 0.5 for row in rows)
    healthy = {row["meaning"]: str(row["met_in_generation"]) for row in rows if row["loop"] == 0}
    assert set(healthy.values()) == {"not measured", "not by generation 11"}
    assert [name for name, met in healthy.items() if met == "not measured"] == ["another scaling law"]
    return {row["meaning"]: str(row["met_in_generation"]) for row in rows if row["loop"] == 1}


def falls_after(generation: int, before: float, after: float):
    return lambda g: before if g < generation else after


@pytest.mark.parametrize(
    ("columns", "met"),
    [
        ({"held_out_nats": falls_after(4, 5.0, 8.0)}, {"catastrophic rise of the loss": 4}),
        ({"held_out_nats": falls_after(4, 5.0, 7.99)}, {}),
        ({"untempered_forward_kl_nats": falls_after(3, 1.0, 1.29)}, {"any rise of the loss": 3}),
        ({"untempered_forward_kl_nats": falls_after(3, 1.0, 1.27)}, {}),
        ({"untempered_forward_kl_nats": falls_after(3, 1.0, math.inf)}, {"any rise of the loss": 3}),
        ({"held_out_nats": lambda g: 5 + 0.1 * g + 0.01 * (-1) ** g}, {"loss without bound": 11}),
        ({"held_out_nats": lambda g: 5 + 0.01 * (-1) ** g}, {}),
        ({"held_out_nats": lambda g: 5 + 1e-9 * g}, {}),
        ({"diversity": falls_after(6, 0.5, 0.049)}, {"vanishing variance": 6}),
        ({"diversity": falls_after(6, 0.5, 0.051)}, {}),
        ({"alive": falls_after(2, 1.0, 0.49)}, {"loss of modes": 2}),
        ({"tail": falls_after(5, 1.0, 0.49)}, {"loss of the tail": 5}),
        ({"tail": falls_after(5, 1.0, 0.51)}, {}),
        ({"outside_share": falls_after(0, 0.0, 0.051)}, {"false or impossible output": 0}),
    ],
)
def test_each_meaning_is_met_by_its_own_course_only(columns, met):
    """Catches a criterion that is turned round, or reads another column, loop or class of expressions."""
    found = verdicts(**columns)
    expected = dict.fromkeys(found, "not by generation 11") | {"another scaling law": "not measured"}
    expected |= {name: str(generation) for name, generation in met.items()}
    assert found == expected


def test_a_meaning_that_was_measured_now_and_then():
    """Every k-th generation only: the others are no evidence, neither for nor against."""
    gaps = {"untempered_forward_kl_nats": lambda g: (1.0 if g < 6 else 3.0) if g % 4 == 0 else math.nan}
    assert verdicts(**gaps)["any rise of the loss"] == "8"
    once = {"outside_share": lambda g: 0.0 if g == 4 else math.nan}
    assert verdicts(**once)["false or impossible output"] == "not by generation 4", "what was not measured is not known"


def test_what_was_infinite_from_the_start_did_not_rise():
    """A memoriser's loss is infinite at once: that is no rise, and no warning."""
    found = verdicts(untempered_forward_kl_nats=lambda g: math.inf, held_out_nats=lambda g: math.inf)
    assert found["any rise of the loss"] == "not measured"
    assert found["catastrophic rise of the loss"] == "0"
    assert found["loss without bound"] == "not measured"


def test_no_tails_are_no_verdict():
    """Where tails were not measured, a loop has not lost them."""
    metrics = pd.DataFrame(
        [{"loop": 0, "seed": 0, "generation": g, "control": 0, **row} for g, row in course().items()]
    )
    columns = ["loop", "generation", "classes", "class", "source_share", "model_share", "first_rows"]
    rows = collapse_rows(metrics, pd.DataFrame(columns=[*columns, "alive_share"]), [])
    by_name = {row["meaning"]: row for row in rows}
    for name in ("loss of modes", "loss of the tail"):
        assert str(by_name[name]["met_in_generation"]) == "not measured" and np.isnan(by_name[name]["last_number"])


def test_half_lives_are_the_first_generations_below_one_half():
    """Catches a half-life that takes a tenth, loop or column for another one, or a recovery for no loss at all."""
    metrics, tails = [], []
    for loop in (0, 1):
        for generation in range(4):
            place = {"loop": loop, "generation": generation}
            metrics.append({**place, "seed": 5, "control": loop, "cycle.fresh_share": 0.25})
            for tenth in range(1, 11):
                kept = 0.4 if loop == 0 and generation == 2 and tenth == 10 else 0.6
                alive = 0.1 if loop == 1 and generation >= 3 and tenth == 2 else 1.0
                row = {"classes": "tenth", "class": str(tenth), "source_share": 0.1, "model_share": 0.1 * kept}
                tails.append({**place, **row, "first_rows": 1.0, "alive_share": math.nan if tenth == 7 else alive})
    frames = (pd.DataFrame(rows).sample(frac=1, random_state=1) for rows in (metrics, tails))
    found = {(row["loop"], row["tenth"]): row for row in half_life_rows(*frames, ["cycle.fresh_share"])}
    assert list(found) == [(loop, tenth) for loop in (0, 1) for tenth in range(1, 11)]
    for (loop, tenth), row in found.items():
        assert (row["seed"], row["control"], row["cycle.fresh_share"]) == (5, loop, 0.25)
        never = "not by generation 3"
        assert str(row["lost_half_of_mass_in_generation"]) == ("2" if (loop, tenth) == (0, 10) else never)
        dead = "not measured" if tenth == 7 else "3" if (loop, tenth) == (1, 2) else never
        assert str(row["half_dead_in_generation"]) == dead


def test_modes_of_which_nobody_knows_whether_they_live_are_not_lost():
    """A memoriser of points has no density: nothing alive was added up to nothing alive, and called a collapse."""
    met = verdicts(alive=lambda generation: math.nan)
    assert str(met["loss of modes"]) == "not measured"
    assert str(met["loss of the tail"]) == "not by generation 11"
