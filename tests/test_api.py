"""jaxloop from Python: the same bits as the command, one line for bad input, and what shows itself in a notebook."""

import doctest
import json
import warnings

import pandas as pd
import pytest
from processes import call, python
from tiny import TINY, results

import jaxloop
from jaxloop import api
from jaxloop.systems.logic.judge import TRUE_VERDICT

LITTLE = {"learner.name": "resample", "seeds": [0, 1, 2]}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "little"
    return jaxloop.run(TINY, settings=LITTLE, path=path, progress=False)


def test_the_same_bits_as_the_command(run, tmp_path):
    """Catches a door that goes another way than the command: other defaults, other settings, another folder."""
    done = call(
        "run", TINY, "learner.name=resample", "seeds=[0, 1, 2]", "--out", str(tmp_path / "by_command"), "--no-figures"
    )
    assert done.returncode == 0
    assert results(tmp_path / "by_command") == results(run.path)
    config = [(path / "config.toml").read_text() for path in (run.path, tmp_path / "by_command")]
    assert config[0] == config[1]
    assert "\n".join(done.stdout.splitlines()).find(str(run.answer)) >= 0


def test_tables_are_those_of_the_folder(run):
    """Catches rows that are lost or columns that are renamed on the way to pandas."""
    assert len(run.metrics) == len(pd.read_csv(run.path / "metrics.csv")) == 18
    for name in ("metrics", "tails", "summary"):
        assert list(getattr(run, name)) == list(pd.read_csv(run.path / f"{name}.csv")), name
    table = pd.read_csv(run.path / "collapse.csv")
    words = table.pop("met_in_generation")
    assert list(run.collapse.drop(columns=["generation", "collapsed"])) == list(table)
    assert [int(word.split()[-1]) for word in words[words != "not measured"]] == [
        int(generation) for generation in run.collapse["generation"] if generation >= 0
    ]
    assert (words.str.isdigit() == run.collapse["collapsed"]).all()
    # Nobody changes what others see.
    metrics = run.metrics
    metrics["diversity"] = 0.0
    assert run.metrics["diversity"].max() > 0


def test_samples_are_the_texts_of_the_arrays(run):
    """Catches another generation or loop than the one that was asked for."""
    texts, arrays = run.samples(loop=1, generation=2), run.sample_arrays(1)
    assert texts == run.samples(1) and len(texts) == 60
    assert texts != run.samples(loop=1, generation=1) and texts != run.samples(loop=2)
    assert arrays["tokens"].shape == (60, 16) and set(arrays["verdict"]) == {TRUE_VERDICT}
    with pytest.raises(jaxloop.InputError, match="loop 1 has generations 0 to 2, and no generation 7"):
        run.samples(1, 7)


def test_figures_show_themselves(run, tmp_path):
    """Catches a figure that is empty, or that needs a backend of Matplotlib."""
    picture = run.figure("final")
    assert picture._repr_png_().startswith(b"\x89PNG") and len(picture.figure.axes) == 2
    assert picture.figure.get_suptitle().startswith("little: what was kept")
    picture.save(tmp_path / "final.pdf")
    assert (tmp_path / "final.pdf").read_bytes().startswith(b"%PDF")
    with pytest.raises(jaxloop.InputError, match="'finale' is no figure; figures are overview, diversity, final"):
        run.figure("finale")
    with pytest.raises(jaxloop.InputError, match="little: has no figure 'heat_map', which needs"):
        run.figure("heat_map")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["quik"], "did you mean 'quick'"),
        (["quick", {"cycle.fresh_shares": 0.5}], "unknown setting 'cycle.fresh_shares'; did you mean"),
        (["quick", {"cycle.fresh_share": 2}], "less than or equal to 1"),
        (["quick", {"cycle.fresh_share": "much"}], "cycle.fresh_share: should be a valid number"),
        (["quick", {5: 0.5}], "5 is no name of a setting"),
        (["quick", {"seeds": [0]}, [1]], "given twice"),
        (["no/such.toml"], "no such file"),
    ],
)
def test_bad_input_is_one_line_and_makes_nothing(arguments, said, tmp_path):
    """Catches a traceback of a library, and a folder that stays behind."""
    source, settings, seeds = [*arguments, None, None][:3]
    with pytest.raises(jaxloop.InputError, match=said):
        jaxloop.run(source, settings=settings, seeds=seeds, path=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_an_axis_gives_way_to_a_setting(tmp_path):
    """Catches a setting that is refused, or ignored, because the preset varies it."""
    settings = {"learner.name": "resample", "cycle.fresh_share": 0.25}
    found = jaxloop.run(TINY, seeds=[7], settings=settings, path=tmp_path / "run", progress=False)
    assert set(found.metrics["seed"]) == {7}
    assert found.config.cycle.fresh_share == 0.25 and "cycle.fresh_share" not in found.config.axes


def test_a_damaged_folder_is_named(run, tmp_path):
    """Catches a door that reads what the commands refuse."""
    with pytest.raises(jaxloop.InputError, match="no such folder"):
        jaxloop.open_run(tmp_path / "none")
    again = jaxloop.run(TINY, settings=LITTLE, path=tmp_path / "copy", progress=False)
    table = again.path / "tables/loop_000/metrics.csv"
    table.write_text(table.read_text().replace("0", "1", 1))
    opened = jaxloop.open_run(again.path)
    with pytest.raises(jaxloop.DamageError, match=r"loop_000/metrics\.csv: is damaged"):
        opened.metrics  # noqa: B018


def test_examples_of_the_docstrings(tmp_path, monkeypatch):
    """Catches an example that no longer does what it says."""
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = doctest.testmod(api, optionflags=doctest.IGNORE_EXCEPTION_DETAIL)
    assert found.failed == 0 and found.attempted >= 8
    assert all((getattr(api, name).__doc__ or "").count("\n") > 1 for name in ("run", "open_run", "presets", "Run"))


def test_names_are_handed_on_and_cost_nothing_before_they_are_used():
    """Catches an import that makes every command wait for JAX, and a public name that is missing."""
    code = "import sys, jaxloop; print('jax' in sys.modules, sorted(jaxloop.__all__) == jaxloop.__all__)\n"
    code += "print(all(hasattr(jaxloop, name) for name in jaxloop.__all__), set(jaxloop.__all__) <= set(dir(jaxloop)))"
    done = python(code)
    assert (done.stdout, done.stderr) == ("False True\nTrue True\n", "")
    assert jaxloop.__all__ == api.__all__
    with pytest.raises(AttributeError, match="has no attribute 'walk'"):
        jaxloop.walk  # noqa: B018


NOTEBOOK = """
import jaxloop
settings = {settings!r}
run = jaxloop.run({source!r}, seeds=[0, 1, 2], settings=settings, path={path!r})
run.metrics, run.tails, run.summary
run.samples(loop=0, generation=1)
run.figure("overview")
run.answer
jaxloop.open_run({path!r}); jaxloop.presets(); jaxloop.settings()
"""


def test_in_a_kernel_progress_is_one_output_that_is_redrawn(tmp_path):
    """Catches a bar that becomes a line a redraw, an answer with escapes, and a figure that is only a name."""
    nbclient = pytest.importorskip("nbclient")
    import nbformat

    settings = {"learner.name": "resample", "cycle.fresh_share": 0.25}
    lines = NOTEBOOK.format(source=TINY, settings=settings, path=str(tmp_path / "run")).strip().splitlines()
    cells = ["\n".join(lines[:3]), *lines[3:]]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    outputs = [cell["outputs"] for cell in notebook.cells]
    shown = [one for one in outputs[0] if one["output_type"] == "display_data"]
    assert len(shown) == 1 and "100%" in shown[0]["data"]["text/html"]
    printed = "".join(one.get("text", "") for one in outputs[0])
    assert "kept diversity" in printed and len(printed.splitlines()) < 40
    assert "image/png" in outputs[3][0]["data"]
    assert outputs[4][0]["data"]["text/plain"].startswith("kept diversity (resample")
    assert json.dumps(outputs).count("Traceback") == 0
