"""The figure of means beside what is known of them: it shows what it says, and only where something is known."""

import numpy as np
import pytest
from frames import NO_TAILS, SHARE, level, summed, table
from tiny import Silent

from jaxloop.analysis.columns import DIVERSITY, TRAINING_DIVERSITY, Column, Columns
from jaxloop.api import open_run
from jaxloop.config.presets import load
from jaxloop.errors import InputError
from jaxloop.report.closed_form import draw_closed_form
from jaxloop.report.figures import draw_all
from jaxloop.runs.runner import run
from jaxloop.systems.logic.columns import COLUMNS as LOGIC

COLUMNS = Columns(
    (
        Column("diversity", "", 0.0, role=DIVERSITY, axis="spread"),
        Column("training_diversity", "", 0.0, role=TRAINING_DIVERSITY),
        Column("forward_kl_nats", "", 0.0),
    )
)


def cells(*shares):
    metrics = table([{"axes": {SHARE: share}, "kept": level(share), "forward": 2.0} for share in shares])
    return metrics.assign(**{"learner.name": "moments"})


def known_of(metrics, *names, value=0.25):
    return {int(loop): {name: np.full(20, value) for name in names} for loop in set(metrics["loop"])}


def curves(panel):
    """The dashed lines of a panel."""
    return [line for line in panel.get_lines() if line.get_color() == "black"]


def test_a_panel_for_each_column_that_is_known():
    """Catches a closed form under another column's name, or one that is cut where no loop has come to yet."""
    metrics = cells(0.0, 0.5)
    figure = draw_closed_form(metrics, [SHARE], known_of(metrics, "forward_kl_nats", "diversity"), COLUMNS)
    shown = {panel.get_title(): panel for panel in figure.axes if panel.axison}
    assert list(shown) == ["diversity", "forward kl nats"], "in the order of the columns"
    assert shown["diversity"].get_ylabel() == "spread"
    for panel in shown.values():
        assert len(curves(panel)) == 2, "one for each cell"
        for line in curves(panel):
            assert line.get_xdata().tolist() == list(range(9))
            assert set(line.get_ydata()) == {0.25}
    means = [line for line in shown["forward kl nats"].get_lines() if set(line.get_ydata()) == {2.0}]
    assert means, "what was measured"


def test_loops_of_which_nothing_is_known_are_left_out():
    """Catches a cell without a curve among those that are compared with one."""
    metrics = cells(0.0, 0.5)
    first = metrics.loc[metrics[SHARE] == 0.0, "loop"]
    known = {loop: one for loop, one in known_of(metrics, "diversity").items() if loop in set(first)}
    figure = draw_closed_form(metrics, [SHARE], known, COLUMNS)
    (panel,) = [panel for panel in figure.axes if panel.axison]
    assert len(curves(panel)) == 1
    (legend,) = figure.legends
    words = [text.get_text() for text in legend.get_texts()]
    assert any("fresh share 0" in one for one in words) and not any("0.5" in one for one in words)
    assert "closed form" in words
    assert draw_closed_form(metrics, [SHARE], {}, COLUMNS) is None


def test_many_cells_and_a_wide_range_can_be_read():
    """Catches lines of which none can be told from another, and an axis on which all but the last are 0."""
    metrics = cells(*np.linspace(0, 1, 20).tolist())
    known = {loop: {"forward_kl_nats": np.geomspace(1e-3, 1e3, 9)} for loop in set(metrics["loop"])}
    figure = draw_closed_form(metrics, [SHARE], known, COLUMNS)
    (panel,) = [panel for panel in figure.axes if panel.axison]
    assert panel.get_yscale() == "log"
    assert len(curves(panel)) == 6
    assert "6 of 20 shown" in figure.get_suptitle()


def test_a_run_of_which_nothing_is_known_keeps_its_figures(tmp_path):
    """Catches a figure that is drawn empty, one of an earlier state that stays, and others that change with it."""
    metrics = cells(0.0, 0.5).drop(columns="learner.name")
    (tmp_path / "closed_form.png").write_text("of an earlier state")
    of_run = metrics, NO_TAILS, summed(metrics, [SHARE]), [SHARE], "transformer", LOGIC
    without = {path.name: path.read_bytes() for path in draw_all(*of_run, tmp_path, pytest.fail, expected={})}
    assert "closed_form.png" not in without
    assert not (tmp_path / "closed_form.png").exists()
    known = known_of(metrics, "diversity")
    drawn = {path.name: path.read_bytes() for path in draw_all(*of_run, tmp_path, pytest.fail, expected=known)}
    assert drawn.pop("closed_form.png").startswith(b"\x89PNG")
    assert drawn == without


def test_a_run_draws_it_and_python_too(tmp_path):
    """Catches plumbing: the system knows it, and it does not come to the folder, the manifest or a notebook."""
    size = ["seeds=[0,1,2]", "cycle.rows=20", "cycle.generations=4"]
    grid = "grid={'learner.name' = ['moments', 'oracle'], 'cycle.name' = ['full_synthetic', 'window']}"
    drawn = run(load("gaussian", [*size, grid]), tmp_path / "run", "test", Silent())
    assert "closed_form" in {path.stem for path in drawn}
    found = open_run(tmp_path / "run")
    figure = found.figure("closed_form").figure
    titles = [panel.get_title() for panel in figure.axes if panel.axison]
    assert {"sample variance", "model variance", "forward kl nats"} < set(titles)
    run(load("gaussian", [*size, "cycle.name=window"]), tmp_path / "other", "test", Silent())
    with pytest.raises(InputError, match="'closed_form', which needs a system of which something is known"):
        open_run(tmp_path / "other").figure("closed_form")
