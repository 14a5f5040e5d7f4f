"""Columns by their role: what a table has, what is declared of it, and a system that has neither right nor wrong."""

import pytest
from frames import NO_TAILS, SHARE, level, table
from tiny import run_tiny

from jaxloop.analysis.cells import as_frame, with_kept_diversity
from jaxloop.analysis.collapse import collapse_rows
from jaxloop.analysis.columns import DIVERSITY, PART, TRAINING_DIVERSITY, Column, Columns
from jaxloop.analysis.summary import summary_rows
from jaxloop.report.answer import answer_lines
from jaxloop.report.figures import draw_all
from jaxloop.systems.logic.columns import COLUMNS

POINTS = Columns(
    (
        Column("diversity", "variance of the samples", 0.0, role=DIVERSITY),
        Column("training_diversity", "the same of the training rows", 0.0, role=TRAINING_DIVERSITY),
    )
)


@pytest.mark.parametrize("learner", ["transformer", "resample"])
def test_every_column_of_metrics_is_declared(tmp_path, learner):
    """Catches a column that nobody explains, one that is explained and not there, and numbers out of their bounds."""
    run_tiny(tmp_path / "run", f"learner.name={learner}", "grid={'cycle.fresh_share' = [0.0]}", "cycle.generations=2")
    rows = [line.split(",") for line in (tmp_path / "run/metrics.csv").read_text().splitlines()]
    header = [name for name in rows[0] if name not in ("loop", "seed", "generation", "control") and "." not in name]
    assert sorted(header) == sorted(column.name for column in COLUMNS.declared)
    for column in COLUMNS.declared:
        values = [float(row[rows[0].index(column.name)] or 0) for row in rows[1:]]
        # Estimates of a divergence may fall below what it can be.
        least = -0.5 if "kl_nats" in column.name else column.least
        assert all(least <= value <= column.most for value in values), column.name


def test_a_system_without_right_and_wrong_has_its_answer_and_figures(tmp_path):
    """Catches a table, an answer or a figure that knows the name of a column of the logic language."""
    metrics = table([{"axes": {SHARE: share}, "kept": level(share)} for share in (0.0, 0.5)])
    known = ["loop", "seed", "generation", SHARE, "control", "diversity", "training_diversity", "outside_share"]
    metrics = metrics[[*known, *(name for name in metrics if "nats" in name)]]
    collapse = collapse_rows(metrics, NO_TAILS, [SHARE])
    rows = summary_rows(metrics, collapse, as_frame([], "provenance"), [SHARE], POINTS)
    assert len(rows) == 2 and rows[0]["kept_diversity"] < rows[1]["kept_diversity"]
    assert not any("true" in name or "unique" in name for name in rows[0])
    assert not any("true" in line for line in answer_lines(metrics, collapse, [SHARE], "oracle", POINTS))
    tables = with_kept_diversity(metrics), NO_TAILS, rows
    paths = draw_all(*tables, [SHARE], "oracle", POINTS, tmp_path, pytest.fail)
    assert [path.stem for path in paths] == ["overview", "diversity", "final"]


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ((*POINTS.declared, Column("x", "", role="quality")), "x: 'quality' is no role; roles are part, diversity"),
        ((*POINTS.declared, Column("x", "", role=DIVERSITY)), "is for .diversity., not for diversity, x"),
        ((Column("true_share", "", role=PART),), "is for .diversity., not for none"),
    ],
)
def test_roles_that_cannot_be_are_refused(declared, said):
    """Catches a misspelt role, which would silently leave a column out of every figure."""
    with pytest.raises(ValueError, match=said):
        Columns(declared)
