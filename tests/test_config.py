"""Settings: what loads, what is refused, and that a refusal is one line that names the setting."""

import itertools
import tomllib

import numpy as np
import pytest

from jaxloop import config as config_module
from jaxloop.config import KNOBS, Config, describe, differences, dump, load, loops, preset_folder, preset_names
from jaxloop.errors import InputError
from jaxloop.language import Language

PRESETS = sorted(path.stem for path in preset_folder().glob("*.toml"))


def refused(source, *overrides):
    """The message of a refusal, which is one line."""
    with pytest.raises(InputError) as caught:
        load(source, overrides)
    message = str(caught.value)
    assert message.strip()
    assert "\n" not in message
    assert "\r" not in message
    return message


def setting(config, name):
    section, _, key = name.partition(".")
    return getattr(getattr(config, section), key) if key else getattr(config, section)


@pytest.fixture
def file(tmp_path):
    """Write a TOML file and give its name."""

    def write(content):
        path = tmp_path / "run.toml"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return write


# Presets


def test_presets_are_the_files():
    """Catches a preset that cannot be named, and a folder that is not found."""
    assert preset_names() == PRESETS
    assert {"quick", "compact", "paper"} <= set(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_preset_loads_and_expands(name):
    """Catches a preset that the schema refuses, and loops that are lost or doubled."""
    config = load(name)
    assert config.controls == (name != "bench")
    cells = list(itertools.product(*config.grid.values()))
    found = loops(config.model_copy(update={"controls": False}))
    assert loops(config)[: len(found)] == found
    assert [loop.index for loop in found] == list(range(len(cells) * len(config.seeds)))
    assert [(tuple(loop.axes.values()), loop.seed) for loop in found] == list(itertools.product(cells, config.seeds))


@pytest.mark.parametrize("name", PRESETS)
def test_preset_holds_only_what_differs(name):
    """Catches a preset that writes out a default: a later change of the default would not reach it."""
    table = tomllib.loads((preset_folder() / f"{name}.toml").read_text(encoding="utf-8"))
    defaults = Config().model_dump()
    same = [
        f"{section}.{key}"
        for section, settings in table.items()
        if section not in ("grid", "seeds", "controls")
        for key, value in settings.items()
        if value == defaults[section][key]
    ]
    assert not same


def test_paper_presets_have_the_paper_sizes():
    """Catches a preset that is empty or shrunk: the paper's sizes are what it is for."""
    sizes = {name: load(name).model for name in ("paper", "paper_large")}
    assert (sizes["paper"].layers, sizes["paper"].heads, sizes["paper"].width) == (6, 6, 384)
    assert (sizes["paper_large"].layers, sizes["paper_large"].width) == (10, 640)
    for name in sizes:
        config = load(name)
        assert (config.cycle.rows, config.cycle.generations, config.train.steps) == (10_000, 50, 5000)
        assert (config.language.min_depth, config.language.max_depth, config.sample.temperature) == (1, 5, 0.8)


# Defaults


def test_describe_lists_every_setting():
    """Catches a setting that the documentation leaves out, or states with a default that it does not have."""
    defaults = Config().model_dump(exclude={"grid"})
    expected = {name: defaults.pop(name) for name in ("seeds", "controls")}
    expected |= {f"{section}.{key}": value for section, keys in defaults.items() for key, value in keys.items()}
    rows = describe()
    assert sorted(row[0] for row in rows) == sorted(expected)
    for name, default, allowed, kind, meaning in rows:
        assert (None if default == "unset" else tomllib.loads(f"x = {default}")["x"]) == expected[name]
        assert kind == ("knob" if name in KNOBS else "static")
        assert len(meaning) > 10
        assert allowed


def test_knobs_are_settings():
    """Catches an axis of the grid that is renamed in the schema only."""
    assert set(KNOBS) < {row[0] for row in describe()}


# Overrides

LEARNERS = {"learner.name": ["transformer", "resample", "oracle"]}


@pytest.mark.parametrize(
    ("override", "name", "expected"),
    [
        ("cycle.rows=20", "cycle.rows", 20),
        ("cycle.rows = 1_000", "cycle.rows", 1000),
        ("train.learning_rate=1e-4", "train.learning_rate", 1e-4),
        ("train.weight_decay=1", "train.weight_decay", 1.0),
        ("language.only_true=false", "language.only_true", False),
        ("cycle.name=balanced", "cycle.name", "balanced"),
        ('cycle.name="expanding"', "cycle.name", "expanding"),
        ("cycle.name='incremental'", "cycle.name", "incremental"),
        ("seeds=[3, 1]", "seeds", [3, 1]),
        ("cycle.fresh_share=0", "cycle.fresh_share", 0.0),
        ("cycle.fresh_share=1.0", "cycle.fresh_share", 1.0),
        ("grid.cycle.fresh_share=[0.0,0.1]", "grid", {**LEARNERS, "cycle.fresh_share": [0.0, 0.1]}),
        ('grid."cycle.fresh_share"=[0.1]', "grid", {**LEARNERS, "cycle.fresh_share": [0.1]}),
        ("grid={}", "grid", {}),
        ("model.context_tokens=30", "model.context_tokens", 30),
        ("model.context_tokens=24", "model.context_tokens", 24),
        ("train.row_tokens=32", "train.row_tokens", 32),
        ("train.row_tokens=16", "train.row_tokens", 16),
        ("train.row_tokens=0", "train.row_tokens", 0),
    ],
)
def test_override(override, name, expected):
    """Catches an override that is read with the wrong type, goes to the wrong place, or is refused at a bound."""
    found = setting(load("quick", [override]), name)
    assert found == expected
    assert type(found) is type(expected)


def test_override_changes_nothing_else():
    """Catches an override that resets its section, or the order in which overrides count: the last one wins."""
    before = load("quick")
    after = load("quick", ["train.steps=7", "train.steps=9"])
    assert differences(dump(before), dump(after)) == [f"train.steps: {before.train.steps} -> 9"]


def test_override_of_an_axis_replaces_it():
    """Catches an axis that silently wins over the value that was asked for."""
    plain = ["controls=false", "learner.name=transformer"]
    config = load("compact", [*plain, "cycle.fresh_share=0.125"])
    assert config.grid == {}
    assert [loop.config.cycle.fresh_part(1) for loop in loops(config)] == [0.125] * 3
    both = load("compact", [*plain, "cycle.fresh_share=0.125", "grid.sample.temperature=[0.5,1.0]"])
    assert [(loop.axes, loop.config.cycle.fresh_share) for loop in loops(both)][::3] == [
        ({"sample.temperature": 0.5}, 0.125),
        ({"sample.temperature": 1.0}, 0.125),
    ]


def test_an_axis_may_stand_without_quotes_in_a_file(tmp_path):
    """Catches the grid that TOML reads as tables in tables being refused: the command line takes it as it is."""
    for name, text in (("dotted", "[grid]\ncycle.fresh_share = [0.5]"), ("table", "[grid.cycle]\nfresh_share = [0.5]")):
        (tmp_path / f"{name}.toml").write_text(text)
        assert load(str(tmp_path / f"{name}.toml")).grid == {"cycle.fresh_share": [0.5]}


def test_override_of_another_setting_keeps_the_axes():
    """Catches an override that empties the whole grid."""
    assert load("compact", ["sample.temperature=0.5"]).grid == load("compact").grid


def test_loops_are_the_product_of_axes_and_seeds():
    """Catches cells whose values are not in their config, and an order other than seeds within cells."""
    plain = ["controls=false", "learner.name=transformer"]
    found = loops(
        load("quick", [*plain, "seeds=[4,2]", "grid.sample.temperature=[0.5,2]", "grid.train.learning_rate=[0.1]"])
    )
    expected = itertools.product((0.0, 0.5), (0.5, 2), (0.1,), (4, 2))
    for index, (loop, values) in enumerate(zip(found, expected, strict=True)):
        cell = loop.config
        assert (cell.cycle.fresh_share, cell.sample.temperature, cell.train.learning_rate, loop.seed) == values
        assert list(loop.axes.values()) == list(values[:3])
        assert loop.index == index
        assert cell.grid == {}
        assert (
            (cell.cycle.rows, cell.model.context_tokens) == (load("quick").cycle.rows, 16) != (Config().cycle.rows, 128)
        )


def test_controls_are_the_cells_on_fresh_data_only():
    """Catches a control that is missing for a cell, doubled, trained on samples, or otherwise unlike its cell."""
    overrides = ["seeds=[4,2]", "grid.cycle.fresh_share=[0.0,0.5]", "grid.sample.temperature=[0.5,2]"]
    plain = loops(load("quick", [*overrides, "controls=false", "learner.name=transformer"]))
    found = loops(load("quick", [*overrides, "controls=true", "learner.name=transformer"]))
    assert found[:8] == plain, "cells keep their numbers"
    assert [loop.index for loop in found] == list(range(12))
    controls = [(loop.axes["cycle.fresh_share"], loop.axes["sample.temperature"], loop.seed) for loop in found[8:]]
    assert controls == [(1.0, 0.5, 4), (1.0, 0.5, 2), (1.0, 2, 4), (1.0, 2, 2)]
    for loop in found:
        assert loop.config.cycle.fresh_only == (loop.index >= 8)
    # A cell that is its own control is not run twice.
    with_one = loops(load("quick", [*overrides, "controls=true", "grid.cycle.fresh_share=[0.0,1.0]"]))
    assert len(with_one) == len(
        loops(load("quick", [*overrides, "grid.cycle.fresh_share=[0.0,1.0]", "controls=false"]))
    )


@pytest.mark.parametrize("cycle", ["full_synthetic", "balanced", "incremental", "expanding"])
def test_the_control_of_every_cycle_never_trains_on_a_sample(cycle):
    """Catches the control of a cycle that draws from earlier generations: their rows would be samples."""
    from jaxloop.cycles import SAMPLED, first, following

    shares = "grid.cycle.generated_share=[0.5,0.9]"
    config = load("quick", [f"cycle.name={cycle}", "cycle.rows=20", "grid={}", shares, "learner.name=transformer"])
    control = loops(config)[-1]
    assert control.axes["cycle.generated_share"] == 0 and control.config.cycle.fresh_only
    rows_NxT = np.zeros((20, 4), np.uint8)
    carry = first(control.config.cycle, rows_NxT)
    for generation in range(1, 5):
        carry = following(
            control.config.cycle, carry, generation, rows_NxT, lambda count: rows_NxT[:count], np.random.default_rng(0)
        )
        assert not np.any(carry.training.kind_N == SAMPLED)
        assert len(carry.training.kind_N) == (20 * (generation + 1) if cycle == "expanding" else 20)


@pytest.mark.parametrize(
    ("cycle", "fresh", "generated", "fresh_part", "new_part"),
    [
        ("full_synthetic", None, None, 0.0, 0.5),
        ("full_synthetic", 0.25, None, 0.25, 0.5),
        ("expanding", None, 0.75, 0.25, 0.75),
        ("expanding", 0.25, 0.75, 0.25, 0.75),
        ("incremental", None, None, 0.0, 0.5),
        ("incremental", None, 0.9, 0.0, 0.9),
        ("incremental", 0.7, 0.9, 0.7, 0.9),
        ("incremental", 1.0, 0.0, 1.0, 0.0),
    ],
)
def test_shares_as_each_cycle_reads_them(cycle, fresh, generated, fresh_part, new_part):
    """Catches a share of zero that is taken for unset, and a generated share that means the same in every cycle."""
    shares = {"fresh_share": fresh, "generated_share": generated}
    given = [f"cycle.{key}={value}" for key, value in shares.items() if value is not None]
    settings = load("paper", [f"cycle.name={cycle}", *given]).cycle
    assert settings.fresh_part(1) == pytest.approx(fresh_part)
    assert settings.new_part == pytest.approx(new_part)


# Refusals


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("cycle.fresh_shar=0.1", "cycle.fresh_share"),
        ("fresh_share=0.1", "cycle.fresh_share"),
        ("trian.steps=5", "train.steps"),
        ("train.row_token=128", "train.row_tokens"),
        ("seed=[1]", "seeds"),
        ("Train.Steps=5", "train.steps"),
        ("grid.cycle.fresh_shares=[0.1]", "cycle.fresh_share"),
        ("grid.sample.temprature=[0.1]", "sample.temperature"),
    ],
)
def test_misspelt_override_names_the_nearest(override, nearest):
    """Catches a misspelt setting that is ignored, or refused without help."""
    message = refused("quick", override)
    assert f"did you mean {nearest!r}" in message
    assert override.partition("=")[0].removeprefix("grid.") in message


@pytest.mark.parametrize(
    ("content", "named", "nearest"),
    [
        ("[train]\nstep = 5", "train.step", "train.steps"),
        ("[cycle]\nfresh = 0.5", "cycle.fresh", "cycle.fresh_share"),
        ("[cycles]\nrows = 20", "cycles", "cycle."),
        ("[training]\nsteps = 5", "training", "train."),
        ("[modle]\nwidth = 64", "modle", "model."),
        ("seed = [1]", "seed", "seeds"),
        ('[grid]\n"cycle.fresh_shares" = [0.5]', "cycle.fresh_shares", "cycle.fresh_share"),
    ],
)
def test_misspelt_name_in_a_file_names_the_nearest(content, named, nearest, file):
    """Catches the same in a file, for settings, sections and axes."""
    message = refused(file(content))
    assert repr(named) in message
    assert f"did you mean '{nearest}" in message
    assert "run.toml" in message


@pytest.mark.parametrize(("name", "nearest"), [("quik", "quick"), ("papr", "paper"), ("compct", "compact")])
def test_misspelt_preset_names_the_nearest(name, nearest):
    """Catches a misspelt preset that is refused without help."""
    message = refused(name)
    assert repr(name) in message
    assert f"did you mean {nearest!r}" in message
    assert all(preset in message for preset in PRESETS)


RANGES = {
    "seeds": ("[-1]", "[2147483648]", "[]", "[1, 1]"),
    "language.min_depth": ("-1", "9"),
    "language.max_depth": ("0", "9"),
    "cycle.rows": ("9", "10_000_001", "0", "-5"),
    "cycle.generations": ("0", "100_001"),
    "cycle.fresh_share": ("-0.1", "1.01", "2"),
    "cycle.generated_share": ("-0.1", "1.01"),
    "cycle.name": ("synthetic", '""'),
    "cycle.rescue_generation": ("-1", "100_001", "5"),
    "cycle.rescue_fresh_share": ("-0.1", "1.01", "0.5"),
    "cycle.first_mass_share": ("0", "0.009", "1.01", "nan"),
    "model.layers": ("0", "101"),
    "model.heads": ("0", "-4"),
    "model.width": ("0",),
    "model.context_tokens": ("1", "100_001"),
    "model.dropout": ("-0.1", "1.0", "1"),
    "model.activations": ("float16",),
    "train.steps": ("0", "-1", "10_000_000_000"),
    "train.batch_expressions": ("0", "10_000_001"),
    "train.row_tokens": ("-1", "1_000_001"),
    "train.learning_rate": ("0", "0.0", "-1e-3", "1e7"),
    "train.final_learning_rate_share": ("1.1", "-0.1"),
    "train.warmup_steps": ("-1",),
    "train.beta1": ("1.0", "-0.1"),
    "train.beta2": ("1.0", "-0.1"),
    "train.weight_decay": ("-0.1",),
    "train.clip_norm": ("0",),
    "train.validation_share": ("0", "0.51"),
    "train.evaluate_every_steps": ("0",),
    "train.patience_evaluations": ("-1",),
    "sample.temperature": ("0", "-1", "101"),
    "sample.batch_rows": ("0",),
    "learner.name": ("lstm", '""'),
    "learner.order": ("0", "21"),
    "measure.held_out_rows": ("9",),
    "measure.alive_share": ("0", "1.1"),
    "measure.structure_every_generations": ("-1", "100_001"),
    "measure.distances_every_generations": ("-1", "100_001"),
    "measure.enumerate_every_generations": ("-1", "100_001"),
    "population.loops_per_device": ("-1",),
}


def test_every_number_has_a_range():
    """Catches a new setting whose range nobody tests."""
    described = {row[0] for row in describe()}
    assert described - set(RANGES) == {"language.only_true", "controls"}
    assert set(RANGES) < described


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in RANGES.items() for value in values])
def test_value_out_of_range(name, value):
    """Catches a value that has no meaning and would fail much later, or not at all."""
    assert name in refused("quick", f"{name}={value}")


WORDS = ("cycle.name", "learner.name", "model.activations")
TRUTHS = ("language.only_true", "controls")
NUMBERS = [row[0] for row in describe() if row[0] not in ("seeds", *WORDS)]
FLOATS = [*KNOBS, "model.dropout", "train.final_learning_rate_share", "train.beta1", "train.beta2"]
FLOATS += ["train.clip_norm", "train.validation_share", "measure.alive_share"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *itertools.product(NUMBERS, ["many", '"5"', "[5]", "{x = 5}", "2020-01-01"]),
        *((name, "5.5") for name in NUMBERS if name not in FLOATS),
    ],
)
def test_value_of_the_wrong_type(name, value):
    """Catches a word, a list or a table that is taken for a number, and a fraction taken for a whole number."""
    assert name in refused("quick", f"{name}={value}")


@pytest.mark.parametrize("name", [name for name in NUMBERS if name not in TRUTHS])
def test_truth_is_no_number(name):
    """Catches true that is taken for 1."""
    assert name in refused("quick", f"{name}=true")


@pytest.mark.parametrize("value", ["1", "0", "yes", '"true"'])
@pytest.mark.parametrize("name", TRUTHS)
def test_number_is_no_truth(name, value):
    """Catches 1, 0 and words that are taken for true and false."""
    assert name in refused("quick", f"{name}={value}")


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "+nan", "1e999"])
@pytest.mark.parametrize("name", FLOATS)
def test_not_a_finite_number(name, value):
    """Catches nan, which no bound refuses by itself, and infinity, also as a value of an axis."""
    assert name in refused("quick", f"{name}={value}")
    assert name in refused("quick", f"grid.{name}=[{value}]")


@pytest.mark.parametrize("value", ["many", "[true]", "[0.5]", '["1"]', "[[1]]", "3"])
def test_seeds_of_the_wrong_type(value):
    """Catches seeds that are no list of whole numbers."""
    assert "seeds" in refused("quick", f"seeds={value}")


@pytest.mark.parametrize("cycle", ["full_synthetic", "balanced", "expanding"])
@pytest.mark.parametrize(("fresh", "generated", "word"), [(0.5, 0.9, "exceed"), (1, 1, "exceed"), (0.1, 0.1, "short")])
def test_shares_that_do_not_make_a_whole(cycle, fresh, generated, word):
    """Catches new rows that are counted twice, or of which a part comes from nowhere."""
    shares = (f"cycle.fresh_share={fresh}", f"cycle.generated_share={generated}")
    message = refused("paper", f"cycle.name={cycle}", *shares)
    assert all(part in message for part in ("fresh_share", "generated_share", cycle, word))
    message = refused("paper", f"cycle.name={cycle}", shares[0], f"grid.cycle.generated_share=[{generated}]")
    assert f"cycle.generated_share = {generated}" in message


@pytest.mark.parametrize("max_depth", [1, 2, 3, 4, 5, 8])
def test_context_holds_the_longest_expression(max_depth):
    """Catches a context in which some real rows do not fit, and one refused that would do."""
    longest = Language(max_depth=max_depth).longest_tokens
    row = (f"language.max_depth={max_depth}", "train.row_tokens=2000")
    assert load("paper", [*row, f"model.context_tokens={longest + 1}"]).model.context_tokens == longest + 1
    message = refused("paper", *row, f"model.context_tokens={longest}")
    assert "model.context_tokens" in message
    assert str(longest + 1) in message


def test_settings_that_do_not_fit_each_other():
    """Catches pairs of settings, each in its range, that cannot be used together."""
    assert "train.row_tokens (15)" in refused("quick", "train.row_tokens=15")
    assert "train.row_tokens (1)" in refused("quick", "train.row_tokens=1")
    message = refused("quick", "model.width=64", "model.heads=5")
    assert "heads (5)" in message
    assert "width (64)" in message
    message = refused("quick", "language.min_depth=3", "language.max_depth=2")
    assert "min_depth (3)" in message
    assert "max_depth (2)" in message
    assert load("compact", ["language.min_depth=3", "language.max_depth=3"]).language.min_depth == 3


def test_several_faults_are_named_at_once():
    """Catches a refusal that names the first fault only."""
    message = refused("quick", "cycle.rows=1", "train.steps=0", "seeds=[]")
    assert all(name in message for name in ("cycle.rows", "train.steps", "seeds"))


# Grid


@pytest.mark.parametrize(
    ("axis", "values", "said"),
    [
        ("population.loops_per_device", "[1, 2]", ("population.loops_per_device", "decides no result")),
        ("population", "[{loops_per_device = 1}]", ("population.loops_per_device", "decides no result")),
        ("model", "[{width = 32, haeds = 2}]", ("model.haeds", "did you mean 'model.heads'")),
        ("model", "[{width = 32, heads = 5}]", ("model = {'width': 32, 'heads': 5}", "must divide width")),
        ("model", "[{width = 32}, {}]", ("model", "key = value")),
        ("model", "[{width = 32}, {width = 32}]", ("model", "twice")),
        ("seeds", "[1, 2]", ("seeds",)),
        ("seed", "[1, 2]", ("seeds",)),
        ("nothing.like_it", "[1]", ("nothing.like_it", "unknown")),
        ("temperature", "[1]", ("temperature", "unknown")),
        ("cycle", "[1]", ("cycle", "key = value")),
        ("cycle.fresh_share", "[]", ("cycle.fresh_share", "at least one")),
        ("cycle.fresh_share", "[0.5, 0.1, 0.5]", ("cycle.fresh_share", "twice")),
        ("cycle.fresh_share", "[0, 0.0]", ("cycle.fresh_share", "twice")),
        ("cycle.fresh_share", "0.5", ("grid.cycle.fresh_share", "list")),
        ("cycle.fresh_share", "half", ("grid.cycle.fresh_share", "list")),
        ("cycle.fresh_share", '["a"]', ("cycle.fresh_share = 'a'",)),
        ("cycle.fresh_share", "[0.5, 1.5]", ("cycle.fresh_share = 1.5",)),
        ("cycle.fresh_share", "[[0.5]]", ("cycle.fresh_share = [0.5]",)),
        ("cycle.fresh_share", "[true]", ("cycle.fresh_share = True",)),
        ("cycle.fresh_share", "[{a = 1}]", ("cycle.fresh_share",)),
        ("sample.temperature", "[0.5, 0]", ("sample.temperature = 0",)),
        ("train.learning_rate", "[-1.0]", ("train.learning_rate = -1.0",)),
    ],
)
def test_axis_is_refused(axis, values, said):
    """Catches an axis that would be ignored, or whose cell fails hours into the run; the message names the cell."""
    message = refused("quick", f"grid.{axis}={values}")
    assert all(part in message for part in said)


def test_out_of_range_cell_is_named_whole():
    """Catches a message that names one axis of a cell only."""
    message = refused("quick", "grid.cycle.fresh_share=[0.0, 0.5]", "grid.sample.temperature=[0.5, 1000]")
    assert "cycle.fresh_share = 0.0, sample.temperature = 1000" in message


# Files


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("seeds = [", "TOML"),
        ("seeds = [1]\nseeds = [2]", "TOML"),
        ("[cycle]\nrows = 20\n[cycle]\n", "TOML"),
        ("rows 20", "TOML"),
        ("[cycle]\nname = balanced", "TOML"),
        ("\0", "TOML"),
        (b"# \xff\xfe\n", "UTF-8"),
        ("# \xe9\n".encode("latin-1"), "UTF-8"),
        ("seeds = [0]\n".encode("utf-16"), "UTF-8"),
        ("cycle = 5", "cycle"),
        ("grid = 5", "grid"),
        ("grid = []", "grid"),
        ("[cycle.rows]\nx = 1", "cycle.rows"),
        ("[[cycle]]\nrows = 20", "cycle"),
        ('"" = 1', "unknown setting"),
        ('"a\\nb" = 1', "unknown setting"),
        ('[grid]\n"a\\nb" = [1]', "unknown setting"),
        ('[grid]\n"a\\nb" = 1', "grid"),
        ("seeds = [" + "9" * 5000 + "]", "run.toml"),
        ("seeds = " + "[" * 5000 + "]" * 5000, "run.toml"),
    ],
)
def test_file_is_refused(content, said, file):
    """Catches a traceback, or a message of several lines, for a file that is no config; the file is named."""
    message = refused(file(content))
    assert said in message
    assert "run.toml" in message


def test_file_cannot_be_read(tmp_path):
    """Catches a traceback where there is no such file, or a folder in its place."""
    (tmp_path / "folder.toml").mkdir()
    assert "folder.toml" in refused(str(tmp_path / "folder.toml"))
    assert "cannot be read" in refused(f"{tmp_path}/")
    assert "missing.toml: no such file" in refused(str(tmp_path / "missing.toml"))
    assert "no such file" in refused(str(tmp_path / "missing" / "run.toml"))
    assert "file_as_folder" in refused(str(tmp_path / "file_as_folder.toml" / "run.toml"))
    refused(str(tmp_path / ("long" * 100 + ".toml")))


@pytest.mark.parametrize("source", ["", " ", "quick ", "a\nb", "\0", ".", "..", "Quick", "a\0.toml", "a\nb.toml"])
def test_source_is_refused(source):
    """Catches a traceback for a name that is neither a preset nor a file."""
    refused(source)


def test_empty_file_is_the_defaults(file):
    """Catches defaults that do not fit each other."""
    assert load(file("")) == Config()


# Hostile overrides

HOSTILE = [
    "", "=", " = ", "==", "=5", "cycle.rows", "cycle.rows=", "cycle.rows= ", "cycle.rows==20", "cycle.rows=[",
    "cycle.rows=20 30", "cycle.rows=5\n", "cycle.rows=20\ntrain.steps=5", "cycle.rows=20\n[train]\nsteps=5",
    'cycle.name="""a\nb"""', "a\nb=1", "a\nb.c=1", ".=1", "..=1", "cycle.=1", ".rows=1", "cycle=1", "cycle={rows=20}",
    "train=5", "train.steps.x=1", "train.steps.=1", "language={}", "a.b.c=1", "seeds=1", "seeds={}", "seeds.0=1",
    "grid=5", "grid=[]", "grid=x", "grid={cycle=1}", "grid.=[1]", "grid..=[1]",
    "grid.grid=[1]", "grid.cycle.fresh_share=0.5", 'grid.cycle.fresh_share=["a"]',
    'grid.cycle.fresh_share=["""a\nb"""]', "grid.cycle.fresh_share=[0.1", "grid.a\nb=[5]", "grid.a\nb=5",
    'grid."=[1]', "grid.population.loops_per_device=[1]", "population=1", "__class__=1", "cycle.__class__=1",
    "cycle.fresh_part=0.5", "model_config={}", "\0=1", "cycle.rows=\0", "cycle.rows='\udc80'", "\udc80=1",
    "cycle.rows=1979-05-27T07:32:00Z", "cycle.rows=07:32:00", "cycle.rows=0x", "cycle.rows=1__0", "cycle.rows=٣",
    "cycle.rows=-", "cycle.rows=True", "cycle.rows=None",
]  # fmt: skip


@pytest.mark.parametrize("override", HOSTILE)
def test_hostile_override_is_refused(override):
    """Catches a traceback, several lines, or a silent success, for an override that no one can mean."""
    refused("quick", override)


@pytest.mark.parametrize("value", ["[" * 5000, "9" * 5000, "[" + "9" * 5000 + "]", "{a=" * 3000, "0." + "9" * 9000])
@pytest.mark.parametrize("name", ["seeds", "train.learning_rate"])
def test_enormous_override_is_no_traceback(name, value):
    """Catches limits of the TOML reader (depth, digits) that escape as other exceptions."""
    try:
        load("quick", [f"{name}={value}"])
    except InputError as error:
        assert "\n" not in str(error)


def test_overrides_together_are_no_traceback():
    """Catches an override that leaves the table in a state at which the next one stumbles."""
    useful = ["cycle.rows=20", "cycle.fresh_share=0.1", "grid.sample.temperature=[1]", "grid={}", "seeds=[1]"]
    stumbled = []
    for pair in itertools.permutations(["grid=5", "grid=[]", "grid=x", *HOSTILE[-30:], *useful], 2):
        try:
            load("quick", pair)
        except InputError:
            continue
        except Exception as error:
            stumbled.append((pair, repr(error)))
    assert not stumbled


@pytest.mark.parametrize("content", ["cycle = 5", "grid = 5", "grid = []", "cycle = []", 'train = "x"', "seeds = 5"])
@pytest.mark.parametrize("override", ["cycle.rows=20", "grid.cycle.fresh_share=[0.1]", "train.steps=5"])
def test_override_of_a_broken_file_is_no_traceback(content, override, file):
    """Catches an override into a section that the file has made something else."""
    refused(file(content), override)


# Written out and read back

ROUND_TRIPS = [
    ("quick", ()),
    ("compact", ()),
    ("paper", ()),
    ("paper_large", ()),
    ("quick", ("seeds=[5,0,2147483647]", "cycle.name=incremental", "cycle.generated_share=0.1")),
    ("quick", ("grid.train.learning_rate=[1,0.1,1e-9]", "grid.cycle.fresh_share=[0.30000000000000004,1e-300]")),
    ("quick", ("cycle.fresh_share=0", "language.only_true=false", "model.activations=bfloat16")),
    ("quick", ("grid={}", "train.weight_decay=0.1", "train.learning_rate=3.3333333333333333e-5")),
]


@pytest.mark.parametrize(("source", "overrides"), ROUND_TRIPS)
def test_dump_and_load_round_trip(source, overrides, file):
    """Catches a run folder whose config is not the one that ran: a value, the order of axes, or of seeds."""
    config = load(source, overrides)
    again = load(file(dump(config)))
    assert again == config
    assert dump(again) == dump(config)
    assert loops(again) == loops(config)
    assert list(again.grid.items()) == list(config.grid.items())


def test_dump_writes_every_default_out():
    """Catches a run folder that would mean something else once a default changes."""
    table = tomllib.loads(dump(load("quick")))
    written = {"controls"} & table.keys()
    written |= {f"{section}.{key}" for section, keys in table.items() if isinstance(keys, dict) for key in keys}
    unset = {"cycle.fresh_share", "cycle.generated_share", "cycle.rescue_fresh_share"}
    assert {row[0] for row in describe()} - unset - {"seeds"} <= written
    assert table["seeds"] == [0]


def test_differences():
    """Catches a resume that is refused without saying why, or not refused."""
    old = load("quick")
    new = load("quick", ["train.steps=7", "cycle.name=balanced", "grid.cycle.fresh_share=[0.25]", "seeds=[0,1]"])
    assert differences(dump(old), dump(old)) == []
    assert differences(dump(old), dump(new)) == [
        "cycle.name: full_synthetic -> balanced",
        "grid.cycle.fresh_share: [0.0, 0.5] -> [0.25]",
        "seeds: [0] -> [0, 1]",
        f"train.steps: {old.train.steps} -> 7",
    ]
    fixed = load("quick", ["cycle.fresh_share=0.1"])
    assert differences(dump(old), dump(fixed)) == [
        "cycle.fresh_share: unset -> 0.1",
        "grid.cycle.fresh_share: [0.0, 0.5] -> unset",
    ]


def test_presets_are_found_beside_and_inside_the_package(tmp_path, monkeypatch):
    """Catches an installed package, with its presets inside, that does not find them."""
    (tmp_path / "jaxloop" / "configs").mkdir(parents=True)
    (tmp_path / "jaxloop" / "configs" / "own.toml").write_text("seeds = [9]\n", encoding="utf-8")
    monkeypatch.setattr(config_module, "__file__", str(tmp_path / "jaxloop" / "config.py"))
    assert preset_names() == ["own"]
    assert load("own").seeds == [9]
