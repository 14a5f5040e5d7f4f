"""The overview, of every kind of run: what matters here is that no run ends in a traceback instead of its figures."""

import itertools
import math

import pandas as pd
import pytest
from matplotlib.image import imread

from jaxloop.analysis.cells import as_frame, cell_label, cells_of
from jaxloop.errors import InputError
from jaxloop.report.overview import draw_overview
from jaxloop.report.style import write_figure
from jaxloop.systems.logic.columns import COLUMNS


def tables(learners, shares, seeds, generations=3, tails=True, controls=True) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables of a run as they are read from disk: text."""
    cells = list(itertools.product(shares, learners))
    cells = [(0, *cell) for cell in cells] + [(1, 1.0, learner) for learner in learners if controls]
    metrics, tail_rows = [], []
    for loop, ((control, share, learner), seed) in enumerate(itertools.product(cells, seeds)):
        for generation in range(generations):
            place = {"loop": loop, "seed": seed, "generation": generation}
            row = {"control": control, "cycle.fresh_share": share, "learner.name": learner, "held_out_nats": math.inf}
            measures = {
                "true_share": 0.9,
                "false_share": 0.1,
                "invalid_share": 0.0,
                "diversity": 0.5 - 0.1 * generation,
            }
            known = {"unique_share": 0.5, "training_diversity": 0.5, "outside_share": 0.1, "source_entropy_nats": 4.0}
            loss = {"untempered_forward_kl_nats": "", "untempered_forward_kl_standard_error_nats": ""}
            metrics.append({**place, **row, **measures, **known, **loss})
            for tenth in range(1, 11):
                shares_of = {"source_share": 0.1, "model_share": 0.08, "first_rows": 3.0, "alive_share": 0.5}
                tail_rows.append({**place, "classes": "tenth", "class": tenth, **shares_of})
    as_text = [[{key: str(value) for key, value in row.items()} for row in rows] for rows in (metrics, tail_rows)]
    return as_frame(as_text[0], "metrics"), as_frame(as_text[1] if tails else [], "tails")


AXES = ["cycle.fresh_share", "learner.name"]


LEARNERS = [("transformer",), ("oracle",), ("transformer", "resample", "ngram")]
CELLS = [((0.0,), (0,)), ((0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6), (0, 1)), ((0.0,), (0, 1, 2))]
MORE = [{}, {"tails": False, "controls": False}, {"generations": 1}]


# A Latin square: every pair of the three kinds of difference is there once.
@pytest.mark.parametrize(
    ("learners", "shares", "seeds", "more"),
    [
        (learners, *cells, MORE[(row + column) % 3])
        for row, learners in enumerate(LEARNERS)
        for column, cells in enumerate(CELLS)
    ],
)
def test_every_kind_of_run_has_its_figure(tmp_path, learners, shares, seeds, more):
    """One cell or many, one seed or several, references alone or beside the transformer, one generation, no tails."""
    path = tmp_path / "new" / "overview.png"
    write_figure(draw_overview(*tables(learners, shares, seeds, **more), AXES[:1], COLUMNS), path)
    image = imread(path)
    assert image.shape[0] > 600 and image.shape[1] > 900 and image[..., :3].std() > 0.05
    assert [file.name for file in path.parent.iterdir()] == ["overview.png"]


def test_cells_are_named_by_what_differs_and_controls_come_last():
    """Catches two cells of one name, a control among the cells, and a learner that a number's format refuses."""
    metrics, _ = tables(("transformer", "oracle"), (0.0, 0.5), (0,))
    labels = [label for label, *_ in cells_of(metrics, AXES)]
    plain = [f"fresh share {share}, {learner}" for share in ("0", "0.5") for learner in ("transformer", "oracle")]
    assert labels == [*plain, "transformer, fresh data only", "oracle, fresh data only"]
    assert cell_label({}) == "all loops"
    assert cell_label({"cycle.fresh_share": math.nan}) == "fresh share unset"
    assert (
        cell_label({"sample.temperature": 0.5, "cycle.generated_share": 0.0}, True)
        == "temperature 0.5, fresh data only"
    )
    words = {"cycle.name": "full_synthetic", "language.only_true": "False", "train.steps": math.nan, "model.width": ""}
    assert cell_label({**words, "cycle.generated_share": 0.5}) == "full synthetic, not only true, generated share 0.5"


def test_a_table_that_somebody_has_changed_is_named():
    """Catches a traceback where a spreadsheet program has dropped a column or written a word into a cell."""
    metrics, _ = tables(("transformer",), (0.0,), (0,))
    rows = metrics.astype(str).fillna("").to_dict("records")  # as in a file, where nothing is empty text
    with pytest.raises(InputError, match=r"metrics.csv: has no column 'diversity'"):
        as_frame([{key: value for key, value in row.items() if key != "diversity"} for row in rows], "metrics")
    rows[1]["diversity"] = "much"
    with pytest.raises(InputError, match=r"metrics.csv: .*much.*; put it right, or start anew with --overwrite"):
        as_frame(rows, "metrics")
