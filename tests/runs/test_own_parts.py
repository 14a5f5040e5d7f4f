"""Parts of one's own by import path: they run, go on and are read as ours are, and what is wrong with them is told."""

import json
import subprocess
import sys

import numpy as np
import own
import pytest
from processes import TESTS
from tiny import Silent, contents, read, results, run_silently, run_tiny, tiny_config

import jaxloop
from jaxloop.config.presets import configured, load
from jaxloop.errors import InputError, RunError
from jaxloop.runs.integrity import verify_run
from jaxloop.runs.plan import plan
from jaxloop.systems.interfaces import Measured, RowFormat

GRID = "grid={'cycle.fresh_share' = [0.0, 0.5]}"
PARTS = {
    "memory": ("cycle.name=own:KeepThree", "learner.name=resample", GRID),
    "learner": ("learner.name=own:Copies", GRID, "seeds=[0, 1]"),
    "curator": ("curation.name=own:HalfAgain", "learner.name=resample", GRID),
    "curator of a transformer": ("curation.name=own:HalfAgain", "learner.name=transformer", GRID),
    "measure": ('measure.own=["own:FirstToken"]', "learner.name=resample", GRID),
    "along an axis": ("grid={'cycle.name' = ['own:KeepThree', 'full_synthetic']}", "learner.name=resample"),
}


def dice(*overrides: str):
    return load(str(TESTS / "dice.toml"), overrides)


@pytest.mark.parametrize("kind", [*PARTS, "system"])
def test_a_run_with_a_part_of_ones_own_goes_on_and_is_whole(kind, tmp_path):
    """Catches a part that the command line, a resume, the checks of a folder or the statistics do not take."""
    config = dice("seeds=[0, 1]", GRID) if kind == "system" else tiny_config(*PARTS[kind])
    run_silently(config, tmp_path / "undisturbed")
    with pytest.raises(KeyboardInterrupt):
        run_silently(config, tmp_path / "run", Silent(stop_after=3))
    display = run_silently(config, tmp_path / "run")
    assert display.warnings == [] and display.resumed
    assert results(tmp_path / "run") == results(tmp_path / "undisturbed")
    assert verify_run(tmp_path / "run").damages == []
    (_, *_, last) = json.loads((tmp_path / "run" / "manifest.json").read_text())["sessions"]
    (source,) = last["own_parts"]
    assert source["name"].startswith("own:") and source["file"] == str(TESTS / "own.py") and len(source["sha256"]) == 64


READER = """
import sys
import jaxloop
from jaxloop.commands.cli import main
run = jaxloop.open_run(sys.argv[1])
print(run.answer, run.metrics.shape, len(run.summary), run.samples(0, 1)[0], sorted(run.sample_arrays(0)))
sys.argv = ["jaxloop", "verify", sys.argv[1]]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
assert "own" not in sys.modules
"""


@pytest.mark.parametrize("kind", ["memory", "curator", "measure", "learner", "system"])
def test_a_reader_imports_nothing(kind, tmp_path):
    """Catches a folder that somebody sends, and that runs their code when it is looked at."""
    config = dice("seeds=[0, 1]") if kind == "system" else tiny_config(*PARTS[kind])
    run_silently(config, tmp_path / "run")
    done = subprocess.run(
        [sys.executable, "-c", READER, str(tmp_path / "run")],
        cwd=tmp_path,
        env={"PATH": "", "PYTHONPATH": str(TESTS.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "whole" in done.stdout
    if kind == "system":
        assert "'throws'" in done.stdout


def test_what_a_memory_and_a_curator_of_ones_own_do_is_done(tmp_path):
    """Catches a part that is imported and not asked."""
    run_tiny(tmp_path / "kept", "cycle.name=own:KeepThree", "learner.name=resample", "grid={}")
    of_last = [row for row in read(tmp_path / "kept", "provenance") if row["generation"] == "2"]
    assert {(row["kind"], row["rows"]) for row in of_last} == {("real", "3"), ("sampled", "57")}
    run_tiny(tmp_path / "chosen", "curation.name=own:HalfAgain", "learner.name=resample", "grid={}")
    run = jaxloop.open_run(tmp_path / "chosen")
    assert run.sample_arrays(0, 0)["tokens"].shape == (90, 16)
    assert set(run.metrics["training_rows"]) == {60}
    run_tiny(tmp_path / "plain", "learner.name=resample", "grid={}")
    tokens_NxT = jaxloop.open_run(tmp_path / "plain").sample_arrays(0, 0)["tokens"]
    # The first rows of many are those of few, and the last ones train.
    np.testing.assert_array_equal(run.sample_arrays(0, 0)["tokens"][:60], tokens_NxT)


def test_a_measure_of_ones_own_is_in_tables_and_summary(tmp_path):
    """Catches a column that is measured and that nobody sees."""
    run_tiny(tmp_path / "run", *PARTS["measure"])
    run = jaxloop.open_run(tmp_path / "run")
    tokens_NxT = run.sample_arrays(1, 2)["tokens"]
    (row,) = run.metrics[(run.metrics["loop"] == 1) & (run.metrics["generation"] == 2)].to_dict("records")
    assert row["first_number"] == pytest.approx(tokens_NxT[:, 0].mean())
    assert {"first_number", "first_number_low", "first_number_high"} <= set(run.summary)


def test_classes_in_python_are_what_import_paths_are_in_a_config(tmp_path):
    """Catches a door from Python that takes only texts, and one whose run cannot be gone on with by the command."""
    settings = {"cycle.name": own.KeepThree, "measure.own": [own.FirstToken], "learner.name": "resample", "grid": {}}
    small = {"cycle.rows": 60, "cycle.generations": 3, "measure.held_out_rows": 50}
    found = jaxloop.run("quick", settings={**settings, **small}, path=tmp_path / "run", progress=False)
    same = {**settings, **small, "cycle.name": "own:KeepThree", "measure.own": ["own:FirstToken"]}
    assert configured("quick", same) == found.config
    assert "first_number" in found.metrics

    class Local(own.KeepThree):
        pass

    with pytest.raises(InputError, match="no class at the top of a module or notebook"):
        jaxloop.run("quick", settings={"cycle.name": Local}, path=tmp_path / "other", progress=False)


def test_a_plan_of_parts_of_ones_own():
    """Catches a plan that only ours have."""
    assert plan(dice(), lambda line: None).seconds > 0
    found = plan(tiny_config(*PARTS["learner"], "curation.name=own:HalfAgain"), lambda line: None)
    assert found.programs[0].loops_at_once == 3


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("cycle.name=nowhere:KeepThree", "cycle.name = 'nowhere:KeepThree': there is no module 'nowhere'"),
        ("cycle.name=own:KeepFour", "cycle.name = 'own:KeepFour': the module has no such name"),
        ("cycle.name=own:Copies", "cycle.name = 'own:Copies': must be a class with first, next, .* has no first"),
        ("learner.name=own:KeepThree", "learner.name = 'own:KeepThree': must be a class with probe, start, finish"),
        ("curation.name=own:np", "curation.name = 'own:np': must be a class with oversample, choose"),
        ('measure.own=["own:Copies"]', "measure.own = 'own:Copies': must be a class with columns, measure"),
        ("system.name=own:Dice", "system.name = 'own:Dice': must be a class with model_validate"),
        ("cycle.name=keep_three", "cycle.name: should be 'full_synthetic', .* or one of your own, as 'module:Name'"),
        ('measure.own=["own.FirstToken"]', "measure.own"),
        ("grid={'measure.own' = [[]]}", "measure.own is no axis"),
        ("cycle.name=own:Unmade", "cycle.name = 'own:Unmade': cannot be made: KeyError"),
        ("cycle.name=own:Many", "cycle.name = 'own:Many': training_rows and archived_rows must give whole numbers"),
        ("curation.name=own:Endless", "curation.name = 'own:Endless': oversample must be a number from 1 to 1,000"),
        ('measure.own=["own:TheSeed"]', "measure.own: 'own:TheSeed': columns must be a tuple of jaxloop.Column"),
        ("measure.own=own:FirstToken", r"should be import paths in a list, as \['module:Name'\]"),
    ],
)
def test_what_is_no_part_of_its_kind_is_refused(override, said, tmp_path):
    """Catches a traceback for a misspelt path, and a run that finds out after an hour."""
    with pytest.raises(InputError, match=said):
        run_tiny(tmp_path / "run", "learner.name=resample", "grid={}", override)
    assert not (tmp_path / "run" / "metrics.csv").exists()


@pytest.mark.parametrize(
    ("overrides", "said", "generations"),
    [
        (
            ("learner.name=own:Breaks",),
            r"learner.name = 'own:Breaks': ZeroDivisionError: there was a nought; .* kept",
            2,
        ),
        (("learner.name=own:WrongShape",), r"learner.name = 'own:WrongShape': must write uint8 of shape \(60, 16\)", 0),
        (("learner.name=own:Seeds",), "'own:Seeds': columns must be numbers by names that metrics.csv has not", 0),
        (("learner.name=own:Late",), "a row has columns that its table has not", 2),
        (("learner.name=own:Unknown",), "'own:Unknown': the system keeps the log-probability of each sample", 0),
        (("learner.name=own:Fewer",), "'own:Fewer': finish must give a list of one Written for each of the 1 tasks", 0),
        (("learner.name=own:Quits",), "'own:Quits': SystemExit", 0),
        (
            ("learner.name=own:Lost",),
            "training diverged: loop 0 in generation 2; learner.name = 'own:Lost' says so;",
            2,
        ),
        (("cycle.name=own:Mislaid",), "cycle.name = 'own:Mislaid': generation 2: training has 57 rows, and", 2),
        (("curation.name=own:NoPlaces",), "curation.name = 'own:NoPlaces': choose must give 60 places", 0),
        (('measure.own=["own:Undeclared"]',), "measure.own: 'own:Undeclared': must give numbers by the names of", 0),
    ],
)
def test_a_part_that_breaks_a_run_costs_nothing_that_was_measured(overrides, said, generations, tmp_path):
    """Catches a traceback in the place of a line that names the setting, and results that are lost with it."""
    with pytest.raises(RunError, match=said):
        run_tiny(tmp_path / "run", "learner.name=resample", "grid={}", "cycle.generations=4", *overrides)
    assert len(read(tmp_path / "run")) == generations if generations else not (tmp_path / "run/metrics.csv").exists()
    assert verify_run(tmp_path / "run").damages == []


def test_a_description_of_parts_that_was_changed_is_damage(tmp_path):
    """Catches a folder that says of its rows what they are not."""
    run_silently(dice(), tmp_path / "run")
    before = contents(tmp_path / "run")
    text = (tmp_path / "run" / "own_parts.json").read_text()
    for changed in (text.replace("<i2", "<i8"), text[:-20], "{}", ""):
        (tmp_path / "run" / "own_parts.json").write_text(changed)
        assert any("own_parts.json" in line for line in verify_run(tmp_path / "run").damages)
    (tmp_path / "run" / "own_parts.json").unlink()
    assert any("own_parts.json" in line for line in verify_run(tmp_path / "run").damages)
    run_silently(dice(), tmp_path / "run")
    assert verify_run(tmp_path / "run").damages == []
    assert contents(tmp_path / "run")["own_parts.json"] == before["own_parts.json"]


def test_parameters_that_no_reader_could_restore_are_not_kept(tmp_path):
    """Catches a run that ends well and whose folder is damage for whoever looks at it."""
    run_tiny(tmp_path / "run", "learner.name=own:Parameters", "grid={}")
    assert verify_run(tmp_path / "run").damages == [] and not (tmp_path / "run" / "models").exists()


def test_a_system_that_has_changed_does_not_go_on_with_a_run(tmp_path, monkeypatch):
    """Catches a folder whose rows are read as what they were not, and advice that would throw them away."""
    run_silently(dice(), tmp_path / "run")
    before = contents(tmp_path / "run")
    monkeypatch.setattr(own.Dice, "row_format", lambda self, config: RowFormat("throws", np.dtype(np.int32), (2,)))
    with pytest.raises(InputError, match="was begun with other columns or rows of parts of one's own"):
        run_silently(dice("cycle.generations=5"), tmp_path / "run")
    assert contents(tmp_path / "run") == before
    monkeypatch.undo()
    run_silently(dice("cycle.generations=5"), tmp_path / "run")
    assert verify_run(tmp_path / "run").damages == []


def test_rows_that_are_not_as_a_system_says_are_not_written(tmp_path, monkeypatch):
    """Catches a run that ends well and whose samples nobody can read."""
    monkeypatch.setattr(own.Dice, "row_format", lambda self, config: RowFormat("throws", np.dtype(np.int32), (2,)))
    with pytest.raises(RunError, match=r"throws of the samples is int16 of shape .* say int32"):
        run_silently(dice(), tmp_path / "run")
    monkeypatch.setattr(own.Dice, "row_format", lambda self, config: RowFormat("throws", np.dtype(object), (2,)))
    with pytest.raises(InputError, match="all must be numbers"):
        run_silently(dice(), tmp_path / "other")


TAIL = {"classes": "sum", "class": "7", "source_share": 1 / 6, "model_share": 0.1, "first_rows": 3, "alive_share": 1.0}


@pytest.mark.parametrize(
    ("tails", "said"),
    [
        ([TAIL], "tails must be a list of as many rows as tail_rows says, 2, and is 1;"),
        ([TAIL, {"class": "7"}], "tails: row 1: must be a dictionary with classes, class, source_share"),
        ([TAIL, TAIL | {"alive_share": "all"}], "tails: row 1: alive_share must be a number, and is 'all';"),
        ([TAIL, TAIL | {"class": "7\n8"}], "tails: row 1: class must be a word, and is"),
        (None, "tails must be a list of as many rows as tail_rows says, 2, and is NoneType;"),
    ],
)
def test_tails_that_no_reader_could_use_are_not_written(tails, said, tmp_path, monkeypatch):
    """Catches a run that ends well, and whose summary, figures and resume do not."""
    monkeypatch.setattr(own.Throws, "tail_rows", lambda self, generation: 2)
    monkeypatch.setattr(own.Throws, "measure", lambda self, record: Measured({"diversity": 1.0}, tails, {}))
    with pytest.raises(RunError, match=said):
        run_silently(dice(), tmp_path / "run")


def test_what_is_no_measurement_is_named(tmp_path, monkeypatch):
    """Catches a traceback where measures of one's own give their columns alone."""
    monkeypatch.setattr(own.Throws, "measure", lambda self, record: {"diversity": 1.0})
    with pytest.raises(RunError, match=r"measure must give a jaxloop.Measured, and gave \{'diversity'"):
        run_silently(dice(), tmp_path / "run")


def test_tails_of_a_system_of_ones_own_are_kept_and_gone_on_from(tmp_path, monkeypatch):
    """Catches a resume, a figure or a check that takes the tails of a system of one's own for damage."""
    measure = own.Throws.measure
    monkeypatch.setattr(own.Throws, "tail_rows", lambda self, generation: 2)
    monkeypatch.setattr(
        own.Throws, "measure", lambda self, record: measure(self, record)._replace(tails=[TAIL, TAIL | {"class": "8"}])
    )
    run_silently(dice(), tmp_path / "run")
    run_silently(dice("cycle.generations=6"), tmp_path / "run")
    assert len(read(tmp_path / "run", "tails")) == 2 * len(read(tmp_path / "run"))
    assert verify_run(tmp_path / "run").damages == []


@pytest.mark.parametrize(
    ("of_samples", "said"),
    [
        (None, "of_samples must be a dictionary of arrays by other names than throws and log_prob"),
        ({"throws": 3}, "of_samples must be a dictionary of arrays by other names than throws and log_prob"),
        ({"sum": [[1], [1, 2]]}, "sum of the samples is list of shape"),
        ({}, "sum of the samples is nothing, and row_format and kept_of_samples say"),
    ],
)
def test_what_is_no_array_beside_the_samples_is_named(of_samples, said, tmp_path, monkeypatch):
    """Catches a traceback, and an array that takes the place of the samples themselves."""
    measure = own.Throws.measure
    monkeypatch.setattr(own.Dice, "kept_of_samples", lambda self, config: {"sum": np.int64})
    monkeypatch.setattr(
        own.Throws, "measure", lambda self, record: measure(self, record)._replace(of_samples=of_samples)
    )
    with pytest.raises(RunError, match=said):
        run_silently(dice(), tmp_path / "run")


def test_a_scalar_type_in_place_of_a_dtype_is_one(tmp_path, monkeypatch):
    """Catches a run of a system that says `np.int16` for a dtype, which ends well and can never be gone on with."""
    monkeypatch.setattr(own.Dice, "row_format", lambda self, config: RowFormat("throws", np.int16, (2,)))
    run_silently(dice("cycle.generations=2"), tmp_path / "run")
    run_silently(dice("cycle.generations=4"), tmp_path / "run")
    assert verify_run(tmp_path / "run").damages == []
