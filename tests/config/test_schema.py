"""Settings: what loads, what is refused, and that a refusal is one line that names the setting."""

import itertools
import json
import tomllib
import typing

import numpy as np
import pytest
import tomli_w
from pydantic import ValidationError

from jaxloop.config import presets as presets_module
from jaxloop.config.presets import configured, load, preset_folder, preset_names
from jaxloop.config.schema import CycleSettings, describe, differences, dump, loops, settings_class, validated
from jaxloop.errors import InputError
from jaxloop.systems.logic.language import Language
from jaxloop.systems.logic.settings import LogicConfig

PRESETS = sorted(path.stem for path in preset_folder().glob("*.toml"))

MEMORIES = typing.get_args(CycleSettings.model_fields["name"].annotation)


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


def cells_of(grid):
    """Every combination of a grid's values, each as {setting: value}."""
    for values in itertools.product(*grid.values()):
        cell = {}
        for axis, value in zip(grid, values, strict=True):
            cell |= {f"{axis}.{key}": part for key, part in value.items()} if isinstance(value, dict) else {axis: value}
        yield {name: in_a_table(value) for name, value in cell.items()}


def in_a_table(value):
    """A value as an axis has it: lists are text."""
    return json.dumps(value) if isinstance(value, list) else value


def settings_of(config):
    """{setting: value} of every setting within a section, None where it is unset."""
    sections = config.model_dump(exclude={"seeds", "controls", "grid"})
    return {f"{section}.{key}": in_a_table(value) for section, keys in sections.items() for key, value in keys.items()}


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


SCALED_PRESETS = [
    name for name in PRESETS if "scale" in tomllib.loads((preset_folder() / f"{name}.toml").read_text(encoding="utf-8"))
]


@pytest.mark.parametrize("name", SCALED_PRESETS)
def test_every_question_is_asked_at_the_paper_s_scale_too(name):
    """Catches a small setting that stays at the scale of the paper, or an axis that makes no sense there."""
    small, large, paper = load(name), load(name, ["scale=paper"]), load("paper")
    assert large.axes and len(large.seeds) >= 5 and len(small.seeds) >= 5
    for loop in loops(large):
        assert loop.config.cycle.generations == 50 and loop.config.train.steps == paper.train.steps
        assert loop.config.cycle.rows >= 1000 and loop.config.model.width >= 192
        assert all(begin < 50 for begin, _ in loop.config.cycle.fresh_schedule or ())
    assert set(large.axes) == set(small.axes)


@pytest.mark.parametrize("name", PRESETS)
def test_preset_loads_and_expands(name):
    """Catches a preset that the schema refuses, and loops that are lost or doubled."""
    config = load(name)
    # What a loop of fresh data keeps is known of a Gaussian one.
    assert config.controls == (name not in ("bench", "gaussian", *SCALED_PRESETS))
    cells = list(cells_of(config.grid))
    found = loops(config.model_copy(update={"controls": False}))
    assert loops(config)[: len(found)] == found
    assert [loop.index for loop in found] == list(range(len(cells) * len(config.seeds)))
    for loop, (cell, seed) in zip(found, itertools.product(cells, config.seeds), strict=True):
        assert loop.axes.items() >= cell.items()
        assert loop.seed == seed


@pytest.mark.parametrize("name", PRESETS)
def test_preset_holds_only_what_differs(name):
    """Catches a preset that writes out a default, or its scale's setting: a later change would not reach it."""
    table = tomllib.loads((preset_folder() / f"{name}.toml").read_text(encoding="utf-8"))
    defaults = (load(table["scale"]) if "scale" in table else settings_class(table, name)()).model_dump()
    same = [
        f"{section}.{key}"
        for section, settings in table.items()
        if section not in ("scale", "scales", "grid", "seeds", "controls")
        for key, value in settings.items()
        if f"{section}.{key}" != "system.name"
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
    defaults = LogicConfig().model_dump(exclude={"grid"})
    expected = {name: defaults.pop(name) for name in ("seeds", "controls")}
    expected |= {f"{section}.{key}": value for section, keys in defaults.items() for key, value in keys.items()}
    rows = describe()
    assert sorted(row[0] for row in rows) == sorted(expected)
    for name, default, allowed, kind, meaning in rows:
        stated = None if default == "unset" else tomllib.loads(f"x = {default}")["x"]
        assert stated == (list(expected[name]) if isinstance(expected[name], tuple) else expected[name])
        assert kind == ("knob" if name in LogicConfig.knobs() else "static")
        assert len(meaning) > 10
        assert allowed


def test_knobs_are_settings():
    """Catches an axis of the grid that is renamed in the schema only."""
    assert set(LogicConfig.knobs()) < {row[0] for row in describe()}


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
            (cell.cycle.rows, cell.model.context_tokens)
            == (load("quick").cycle.rows, 16)
            != (LogicConfig().cycle.rows, 128)
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


@pytest.mark.parametrize("cycle", MEMORIES)
def test_the_control_of_every_cycle_never_trains_on_a_sample(cycle):
    """Catches the control of a cycle that draws from earlier generations: their rows would be samples."""
    from jaxloop.loop.memories import first, following
    from jaxloop.loop.rows import SAMPLED

    shares = "grid.cycle.generated_share=[0.5,0.9]"
    config = load("quick", [f"cycle.name={cycle}", "cycle.rows=20", "grid={}", shares, "learner.name=transformer"])
    control = loops(config)[-1]
    assert control.axes["cycle.generated_share"] == 0 and control.config.cycle.fresh_only
    rows_NxT = np.zeros((20, 4), np.uint8)
    carry = first(control.config.cycle, rows_NxT)
    for generation in range(1, 5):
        carry = following(
            control.config.cycle,
            carry,
            generation,
            rows_NxT,
            lambda count, beside: rows_NxT[:count],
            np.random.default_rng(0),
        )
        assert not np.any(carry.training.kind_N == SAMPLED)
        sets = {"expanding": generation + 1, "window": min(generation + 1, 3), "fixed_real": 2}
        assert len(carry.training.kind_N) == 20 * sets.get(cycle, 1)


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
    "cycle.fresh_schedule": ("[]", "[[0, 1.01]]", "[[0, -0.1]]", "[[1, 0.5]]", "[[0, 0.5], [0, 0.6]]", "[[0.5, 0.5]]"),
    "cycle.window_generations": ("-1", "0", "100_001"),
    "cycle.first_mass_share": ("0", "0.009", "1.01", "nan"),
    "model.layers": ("0", "101"),
    "model.heads": ("0", "-4"),
    "model.width": ("0",),
    "model.context_tokens": ("1", "100_001"),
    "model.dropout": ("-0.1", "1.0", "1"),
    "model.activations": ("float16",),
    "train.steps": ("0", "-1", "10_000_000_000"),
    "train.batch_expressions": ("0", "10_000_001"),
    "train.partial_sums": ("0", "65"),
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
    "cycle.fresh_target": ("deep", '""'),
    "curation.oversample": ("0.9", "1001.0"),
    "curation.shortfall": ("forget", '""'),
    "curation.false_accept": ("-0.1", "1.1"),
    "curation.false_reject": ("-0.1", "1.1"),
    "curation.known_depth": ("-1", "101"),
    "curation.keep_share": ("0.0", "1.1", "-1.0"),
    "curation.keep": ("best", '""'),
    "curation.judge": ("reader", '""'),
    "curation.most_copies": ("0", "10_000_001"),
    "curation.choose_from": ("1", "1001"),
    "curation.reward": ("beauty", '""'),
    "curation.choice_temperature": ("-0.1", "1e7"),
    "curation.choice_error": ("-0.1", "1.1"),
    "curation.detector_error": ("-0.1", "1.1"),
    "curation.detector_exponent": ("-1.0", "1001.0"),
    "measure.held_out_rows": ("9",),
    "measure.alive_share": ("0", "1.1"),
    "measure.structure_every_generations": ("-1", "100_001"),
    "measure.distances_every_generations": ("-1", "100_001"),
    "measure.enumerate_every_generations": ("-1", "100_001"),
    "population.loops_per_device": ("-1",),
    "store.samples_every_generations": ("-1", "100_001"),
    "store.models_every_generations": ("-1", "100_001"),
}


def test_every_number_has_a_range():
    """Catches a new setting whose range nobody tests."""
    described = {row[0] for row in describe()}
    assert described - set(RANGES) == {"language.only_true", "controls", "system.name", "curation.name", "measure.own"}
    assert set(RANGES) < described


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in RANGES.items() for value in values])
def test_value_out_of_range(name, value):
    """Catches a value that has no meaning and would fail much later, or not at all."""
    assert name in refused("quick", f"{name}={value}")


WORDS = ("system.name", "curation.name", "measure.own", "cycle.name", "learner.name", "model.activations")
WORDS += ("cycle.fresh_target", "curation.shortfall", "curation.keep", "curation.judge", "curation.reward")
TRUTHS = ("language.only_true", "controls")
NUMBERS = [row[0] for row in describe() if row[0] not in ("seeds", *WORDS)]
FLOATS = [*LogicConfig.knobs(), "model.dropout", "train.final_learning_rate_share", "train.beta1", "train.beta2"]
FLOATS += ["train.clip_norm", "train.validation_share", "measure.alive_share"]
FLOATS += ["cycle.first_mass_share", "cycle.fresh_schedule", "curation.oversample"]


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
        ("store.models_every_generations", "[1, 2]", ("store.models_every_generations", "decides no result")),
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
    assert load(file("")) == LogicConfig()


# Grids of any setting

FOUR = [
    {"name": "full_synthetic"},
    {"name": "incremental", "generated_share": 0.5},
    {"name": "balanced"},
    {"name": "expanding", "fresh_share": 0.1},
]
GRIDS = [
    {},
    {"cycle": FOUR},
    {"cycle": FOUR, "language.max_depth": [1, 2]},
    {"sample.temperature": [0.5, 2], "cycle": FOUR[:3], "cycle.fresh_share": [0.0, 0.5]},
    {"model": [{"width": 32}, {"layers": 1, "width": 64, "heads": 4}], "train.learning_rate": [0.1]},
    {"learner": [{"name": "resample"}, {"name": "ngram", "order": 2}], "language.only_true": [True, False]},
    {"cycle": [{"fresh_schedule": [[0, 0.0], [3, 0.5]]}, {"first_mass_share": 0.5}], "train.steps": [5, 7]},
    {"measure": [{"alive_share": 0.5, "held_out_rows": 20}, {"alive_share": 0.25}], "sample": [{"batch_rows": 7}]},
]
every_grid = pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: "+".join(grid) or "none")


def gridded(file, grid, **changes):
    """The config of quick's settings and this grid."""
    # A writer of TOML would put tables behind all else.
    return configured(file(tomli_w.dumps({"scale": "quick", "seeds": [4, 2]} | changes)), {"grid": grid})


@every_grid
def test_cells_are_the_base_with_every_combination_in_place(grid, file):
    """Catches a value of a section that is dropped, resets its section, reaches another cell, or a cell that lacks."""
    config, base = gridded(file, grid), settings_of(load("quick"))
    expected = [(base | cell, seed) for cell in cells_of(grid) for seed in (4, 2)]
    assert [(settings_of(loop.config), loop.seed) for loop in loops(config)] == expected
    assert [loop.index for loop in loops(config)] == list(range(len(expected)))


@every_grid
def test_axes_are_the_settings_that_tell_cells_apart(grid, file):
    """Catches a column that is missing for the cells whose table does not set it, or has another cell's value."""
    config = gridded(file, grid, controls=True)
    columns = list(dict.fromkeys(setting for cell in cells_of(grid) for setting in cell))
    assert sorted(config.axes) == sorted(columns)
    for loop in loops(config):
        assert loop.axes == {axis: settings_of(loop.config)[axis] for axis in columns}
        assert list(loop.axes) == config.axes


def test_axes_of_a_section_by_hand(file):
    """Catches an unset setting that is left out or filled, and the base's value that is lost, in the columns."""
    tables = [{"name": "balanced", "fresh_share": 0.0}, {"generated_share": 0.25, "rows": 20}, {"name": "expanding"}]
    config = gridded(file, {"sample.temperature": [2], "cycle": tables}, seeds=[0])
    assert config.axes == [
        "sample.temperature", "cycle.name", "cycle.fresh_share", "cycle.generated_share", "cycle.rows",
    ]  # fmt: skip
    assert [tuple(loop.axes.values()) for loop in loops(config)] == [
        (2, "balanced", 0.0, None, 400),
        (2, "full_synthetic", None, 0.25, 20),
        (2, "expanding", None, None, 400),
    ]


@every_grid
def test_grids_survive_being_written_out(grid, file):
    """Catches tables of a section that come back in another order, or as another axis: a resume would be refused."""
    config = gridded(file, grid, controls=True)
    again = load(file(dump(config)))
    assert again == config
    assert dump(again) == dump(config)
    assert list(again.grid.items()) == list(config.grid.items())
    assert loops(again) == loops(config)


def test_axes_are_written_in_their_order(file):
    """Catches tables that a writer of TOML puts behind all else: whoever reads the folder would number other loops."""
    long = {"generated_share": 0.25, "fresh_share": 0.125, "first_mass_share": 0.5, "generations": 1000, "rows": 9999}
    for tables in ([{"name": "incremental", **long}, {"rows": 20}], [{"fresh_schedule": [[0, 0.5], [9, 0.0]]}]):
        config = configured("quick", {"grid": {"cycle": tables, "train.steps": [5, 7]}})
        assert list(config.grid) == ["cycle", "train.steps"]
        assert loops(load(file(dump(config)))) == loops(config)


@pytest.mark.parametrize(
    "text",
    [
        '[[grid.cycle]]\nname = "full_synthetic"\n[[grid.cycle]]\nname = "incremental"\ngenerated_share = 0.5',
        '[grid]\ncycle = [{name = "full_synthetic"}, {name = "incremental", generated_share = 0.5}]',
        'grid.cycle = [{name = "full_synthetic"}, {generated_share = 0.5, name = "incremental"}]',
    ],
)
def test_spellings_of_a_section_axis(text, file):
    """Catches a way to write tables in TOML, or on the command line, that means something else."""
    expected = {"cycle": [{"name": "full_synthetic"}, {"name": "incremental", "generated_share": 0.5}]}
    assert load(file(text)).grid == expected
    if text.startswith("grid."):
        assert load(file(""), [text]).grid == expected
        assert load("four_cycles", [text]).grid == expected


CONTROLLED = [
    # (axis of the section, the cycles of the controls)
    (["full_synthetic"], ["full_synthetic"]),
    (["full_synthetic", "balanced", "incremental"], ["full_synthetic"]),
    (["expanding"], ["expanding"]),
    (["balanced", "expanding", "full_synthetic", "incremental"], ["full_synthetic", "expanding"]),
]


@pytest.mark.parametrize(("names", "expected"), CONTROLLED)
def test_controls_of_a_section_axis(names, expected, file):
    """Catches a control that appears once per cell, is missing for expanding, or differs from its cell in more."""
    tables = [{"name": name, "fresh_share": 0.25} for name in names] + [{"name": names[0], "fresh_share": 0.5}]
    grid = {"cycle": tables, "sample.temperature": [0.5, 2]}
    cells, found = (loops(gridded(file, grid, controls=controls)) for controls in (False, True))
    assert found[: len(cells)] == cells
    controls = found[len(cells) :]
    assert [loop.index for loop in controls] == list(range(len(cells), len(found)))
    wanted = {(name, 1.0, temperature, seed) for name in expected for temperature in (0.5, 2) for seed in (4, 2)}
    assert len(controls) == len(wanted)
    assert {(*loop.axes.values(), loop.seed) for loop in controls} == wanted
    assert all(loop.config.cycle.fresh_only for loop in controls)
    base = settings_of(load("quick"))
    for loop in controls:
        assert settings_of(loop.config) == base | {name: loop.axes[name] for name in loop.axes}


def test_a_cell_that_is_a_control_needs_none(file):
    """Catches a control that is trained twice because a cell of the grid is the same loop."""
    tables = [{"name": name, "fresh_share": share} for share in (0.5, 1.0) for name in ("full_synthetic", "expanding")]
    assert len(loops(gridded(file, {"cycle": tables}, controls=True))) == 8
    assert len(loops(gridded(file, {"cycle": tables[2:]}, controls=True))) == 4
    # However it comes to train on fresh rows alone.
    scheduled = {"fresh_schedule": [[0, 0.0], [1, 1.0]]}
    for table in ({"generated_share": 0.0}, scheduled, {"name": "expanding", **scheduled}):
        assert len(loops(gridded(file, {"cycle": [table]}, controls=True))) == 2
    # The control of a cell with another language is another loop.
    grid = {"cycle": tables[:3], "language.max_depth": [1, 2]}
    found = loops(gridded(file, grid, controls=True, seeds=[0]))
    assert [tuple(loop.axes.values()) for loop in found[6:]] == [("expanding", 1.0, 1), ("expanding", 1.0, 2)]


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        (FOUR, 6),  # full_synthetic and balanced leave generated_share unset, incremental has it
        ([{"generated_share": 0.0}, {"generated_share": 0.5}], 2),
        ([{"fresh_schedule": [[0, 1.0], [13, 0.5]]}], 1),  # the 13th never comes
    ],
)
def test_no_control_is_trained_twice(tables, expected, file):
    """Catches two controls, or a control and a cell, that are the same loop under two spellings of its shares."""
    assert len(loops(gridded(file, {"cycle": tables}, controls=True, seeds=[0]))) == expected


def test_the_control_of_a_schedule_has_none(file):
    """Catches a control that takes samples after all, or one control for each schedule."""
    tables = [{"fresh_schedule": [[0, 0.0], [generation, 0.5]]} for generation in (2, 5)]
    found = loops(gridded(file, {"cycle": tables}, controls=True, seeds=[0]))
    assert [tuple(loop.axes.values()) for loop in found] == [
        ("[[0, 0.0], [2, 0.5]]",),
        ("[[0, 0.0], [5, 0.5]]",),
        (None,),
    ]
    assert found[2].config.cycle.fresh_only
    assert found[2].config.cycle.fresh_share == 1


@pytest.mark.parametrize(
    "axes",
    [
        ("cycle", [{"name": "balanced"}, {"name": "incremental"}], "cycle.name", ["expanding"]),
        ("cycle.fresh_share", [0.5], "cycle", [{"name": "balanced"}, {"fresh_share": 0.1}]),
        ("model.heads", [1, 2], "model", [{"heads": 1}]),
    ],
)
def test_two_axes_of_one_setting_are_refused(axes, file):
    """Catches a grid in which one axis silently wins over the other; both are named, and the setting."""
    message = refused(file(tomli_w.dumps({"grid": dict([axes[:2], axes[2:]])})))
    both = {axis for axis in axes[::2] if "." in axis}
    assert all(name in message for name in ('"' + axes[0] + '"', '"' + axes[2] + '"', *both))


REPLACED = [
    # (grid of the file, overrides, grid that is left)
    ({"cycle": FOUR}, ["cycle.name=balanced"], {}),
    ({"cycle": FOUR}, ["cycle.fresh_share=0.5"], {}),
    ({"cycle": FOUR}, ["cycle.rows=20", "sample.temperature=1.0", "seeds=[1]"], {"cycle": FOUR}),
    ({"cycle": FOUR}, ["grid.cycle.name=['balanced']"], {"cycle.name": ["balanced"]}),
    ({"cycle": FOUR}, ["grid.cycle=[{name='balanced'}]"], {"cycle": [{"name": "balanced"}]}),
    ({"cycle": FOUR}, ["grid.cycle.rows=[20, 30]"], {"cycle": FOUR, "cycle.rows": [20, 30]}),
    ({"cycle": FOUR}, ["grid={}"], {}),
    ({"cycle.name": ["balanced"]}, ["grid.cycle=[{name='expanding'}]"], {"cycle": [{"name": "expanding"}]}),
    ({"cycle.name": ["balanced"]}, ["cycle.name=expanding", "grid.cycle.rows=[20]"], {"cycle.rows": [20]}),
    ({"cycle.name": ["balanced"], "train.steps": [5]}, ["cycle.name=expanding"], {"train.steps": [5]}),
    ({"model": [{"width": 32}, {"width": 64}], "train.steps": [5]}, ["model.width=16"], {"train.steps": [5]}),
    ({"model": [{"width": 32}, {"width": 64}]}, ["train.steps=5"], {"model": [{"width": 32}, {"width": 64}]}),
]


@pytest.mark.parametrize(("grid", "overrides", "left"), REPLACED)
def test_an_override_replaces_the_axes_that_set_it(grid, overrides, left, file):
    """Catches an axis that wins over what was asked for, refuses it, or goes although another setting was meant."""
    source = file(tomli_w.dumps({"scale": "quick", "grid": grid}))
    config = load(source, overrides)
    assert config.grid == left
    for loop in loops(config):
        found = settings_of(loop.config)
        for name, _, value in (override.partition("=") for override in overrides):
            assert str(found.get(name, value)) == value


@pytest.mark.parametrize("dotted", ["[grid.cycle]\nfresh_share = [0.1, 0.2]", "[grid]\ncycle.fresh_share = [0.1, 0.2]"])
def test_an_override_replaces_an_axis_without_quotes(dotted, file):
    """Catches an axis that overrides do not find, because TOML reads it as a table in a table."""
    text = dotted + "\n[train]\nsteps = 7\n"
    assert load(file(text), ["cycle.fresh_share=0.5"]).grid == {}
    assert load(file(text), ["grid.cycle.fresh_share=[0.5]"]).grid == {"cycle.fresh_share": [0.5]}
    assert load(file(text), ["grid.cycle=[{fresh_share=0.5}]"]).grid == {"cycle": [{"fresh_share": 0.5}]}
    assert load(file(text), ["cycle.rows=20"]).grid == {"cycle.fresh_share": [0.1, 0.2]}


# Scales

SCALED = """
scale = "quick"
seeds = [7, 8]
[cycle]
generations = 20
[model]
width = 48
[grid]
"cycle.fresh_share" = [0.0, 0.1]
[scales.paper]
seeds = [9]
[scales.paper.cycle]
generations = 30
[scales.paper.grid]
"sample.temperature" = [1.0, 2.0]
[scales.compact.train]
steps = 11
"""


@pytest.mark.parametrize(
    ("overrides", "scale", "own"),
    [
        ([], "quick", {"cycle.generations": 20, "model.width": 48}),
        (["scale=quick"], "quick", {"cycle.generations": 20, "model.width": 48}),
        (["scale=paper"], "paper", {"cycle.generations": 30, "model.width": 48}),
        (["scale=compact"], "compact", {"cycle.generations": 20, "model.width": 48, "train.steps": 11}),
        (["scale=paper_large"], "paper_large", {"cycle.generations": 20, "model.width": 50}),
        (
            ["scale=paper", "scale='compact'"],
            "compact",
            {"cycle.generations": 20, "model.width": 48, "train.steps": 11},
        ),
        (["cycle.generations=3", "scale=paper"], "paper", {"cycle.generations": 3, "model.width": 48}),
    ],
)
def test_a_scale_lies_below_what_the_file_sets(overrides, scale, own, file):
    """Catches settings of a scale that win over the file's, of one that was not chosen, or that are left out."""
    if scale == "paper_large":
        overrides = [*overrides, "model.width=50"]  # its ten heads do not divide the file's width
    config = load(file(SCALED), overrides)
    assert settings_of(config) == settings_of(load(scale)) | own
    grid = {"cycle.fresh_share": [0.0, 0.1]}
    if scale == "paper":
        assert config.seeds == [9]
        assert config.grid == grid | {"sample.temperature": [1.0, 2.0]}
    else:
        assert config.seeds == [7, 8], "those of the file, not those of the scale"
        assert config.grid == grid, "that of the file, not that of the scale"
    assert not config.controls, "the scale's controls are its own"


def test_a_scale_is_resolved_in_what_is_written_out(file):
    """Catches a run folder that means something else once the preset changes, or whose config is refused."""
    config = load(file(SCALED), ["scale=paper"])
    text = dump(config)
    assert not {"scale", "scales"} & tomllib.loads(text).keys()
    assert load(file(text)) == config
    assert "no scale" in refused(file(text), "scale=quick")


@pytest.mark.parametrize(
    ("content", "overrides", "said"),
    [
        ('scale = "quik"', [], ("quik", "did you mean 'quick'")),
        ('scale = "quick"', ["scale=papr"], ("papr", "did you mean 'paper'")),
        ('scale = "quick"', ["scale=5"], ("5", "no scale")),
        ("scale = 5", [], ("5", "no scale")),
        ("scale = []", [], ("no scale",)),
        ('scale = "four_cycles"', [], ("four_cycles", "no scale")),
        ('scale = "quick"', ["scale=four_cycles"], ("four_cycles", "no scale")),
        ('scale = "quick"\n[scales.papr.train]\nsteps = 5', [], ("papr", "did you mean 'paper'")),
        ('scale = "quick"\nscales = 5', [], ("scales",)),
        ('scale = "quick"\n[scales]\nquick = 5', [], ("quick",)),
        ('scale = "quick"\n[scales.quick.train]\nstep = 5', [], ("train.step", "did you mean 'train.steps'")),
        ("", ["scale=quick"], ("no scale of its own",)),
        ("[scales.paper.train]\nsteps = 5", [], ("no scale of its own",)),
        ('scale = "./quick.toml"', [], ("no scale",)),
    ],
)
def test_a_scale_is_refused(content, overrides, said, file):
    """Catches a scale that is ignored, or a traceback for one that is none."""
    message = refused(file(content), *overrides)
    assert all(part in message for part in said)


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in SCALED_PRESETS])
def test_a_preset_without_a_scale_takes_none(name):
    """Catches a scale that is silently ignored."""
    assert "no scale of its own" in refused(name, "scale=quick")


# Schedules of the fresh share


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["cycle.fresh_schedule=[[3, 0.5]]"], "its generations must rise from 0, and are [3]; write [[0, share], "),
        (["cycle.fresh_schedule=[[0, 0.5], [4, 0.1], [4, 0.2]]"], "must rise from 0, and are [0, 4, 4]"),
        (["cycle.fresh_schedule=[[0, 0.5]]", "grid={}", "cycle.fresh_share=0.5"], "set one of them only"),
        (["cycle.fresh_schedule=[[0, 0.5]]", "grid={}", "cycle.generated_share=0.5"], "leave it to fresh_schedule"),
        (["cycle.window_generations=2"], "window_generations belongs to the memory 'window', and name is"),
    ],
)
def test_what_does_not_go_together_is_refused(settings, said):
    """Catches a schedule that says nothing of the first generations, two words for one thing, a setting without use."""
    assert said in refused("quick", *settings)


@pytest.mark.parametrize("name", MEMORIES)
def test_fresh_part_changes_where_the_schedule_says(name):
    """Catches a change that comes one generation early or late, or not in every memory; and one to a share of zero."""
    settings = CycleSettings(name=name, fresh_schedule=[[0, 0.25], [1, 0.5], [4, 0.0], [7, 1.0]])
    assert [settings.fresh_part(generation) for generation in range(9)] == [0.25, *[0.5] * 3, *[0.0] * 3, *[1.0] * 2]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, False),
        ({"fresh_share": 1.0}, True),
        ({"generated_share": 0.0}, True),
        ({"fresh_share": 1.0, "name": "expanding"}, True),
        ({"fresh_share": 1.0, "name": "balanced"}, False),
        ({"fresh_share": 1.0, "name": "incremental"}, False),
        ({"fresh_share": 0.99}, False),
        ({"fresh_schedule": [[0, 0.0], [1, 1.0]]}, True),
        ({"fresh_schedule": [[0, 0.0], [2, 1.0]]}, False),
        ({"fresh_schedule": [[0, 1.0], [2, 1.0]]}, True),
        ({"fresh_schedule": [[0, 1.0], [2, 0.5]]}, False),
        ({"fresh_schedule": [[0, 1.0], [9, 0.5]], "generations": 10}, False),
        ({"fresh_schedule": [[0, 0.0], [2, 1.0]], "name": "expanding"}, False),
    ],
)
def test_fresh_only_is_no_sample_ever(settings, expected):
    """Catches a loop that counts as a control although a generation trains on samples, or the other way round."""
    assert CycleSettings(**settings).fresh_only == expected


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
    unset = {"cycle.fresh_share", "cycle.generated_share", "cycle.fresh_schedule", "cycle.window_generations"}
    unset |= {"curation.known_depth"}
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
    monkeypatch.setattr(presets_module, "__file__", str(tmp_path / "jaxloop" / "config" / "presets.py"))
    assert preset_names() == ["own"]
    assert load("own").seeds == [9]


def test_a_scale_at_which_nothing_is_asked_is_refused():
    """Catches a question that is dropped in silence: one cell, where a grid was asked for."""
    message = refused("data_size", "scale=compact")
    assert "has no grid at scale 'compact', but at paper, quick" in message
    assert load("data_size", ["scale=compact", "grid.cycle.rows=[100,200]"])


def test_a_grid_that_nobody_could_wait_for_is_refused():
    """Catches minutes of silence before anything is said."""
    values = [round(0.01 * place, 2) for place in range(101)]
    grid = [f"grid.{axis}={values}" for axis in ("cycle.fresh_share", "train.weight_decay")]
    assert "30,603 cells, and 10,000 are the most" in refused("quick", *grid)


SAME_ROWS = [
    # Two ways of setting one share; a share that no generation uses; new rows that there are none of.
    ("name = 'expanding', generated_share = 0.75", "name = 'expanding', fresh_share = 0.25"),
    ("fresh_share = 0.5", "fresh_schedule = [[0, 0.1], [1, 0.5]]"),
    ("fresh_share = 0.5", "fresh_schedule = [[0, 0.5], [2, 0.5]]"),
    ("fresh_share = 0.5", "fresh_schedule = [[0, 0.5], [13, 1.0]]"),
    (
        "name = 'incremental', generated_share = 0.0, fresh_share = 0.5",
        "name = 'incremental', generated_share = 0.0, fresh_schedule = [[0, 0.0], [3, 0.5]]",
    ),
    ("name = 'incremental'", "name = 'incremental', generated_share = 0.5, fresh_share = 0.0"),
]


@pytest.mark.parametrize(("first", "second"), SAME_ROWS)
def test_settings_that_mean_the_same_rows_are_one_cell(first, second):
    """Catches a cell that is run twice under two names, here, and in the summary of two folders."""
    settings = ["learner.name=resample", "controls=false", "cycle.generations=13"]
    with pytest.raises(InputError, match="is the same as one before it"):
        load("quick", [*settings, f"grid={{cycle = [{{{first}}}, {{{second}}}]}}"])
    one, other = (loops(load("quick", [*settings, f"grid={{cycle = [{{{text}}}]}}"]))[0] for text in (first, second))
    assert one.config.cycle.meaning == other.config.cycle.meaning
    assert one.config.cycle.fresh_only == other.config.cycle.fresh_only


def test_settings_that_mean_other_rows_are_two_cells():
    """Catches a rule that takes too much for the same."""
    settings = ["learner.name=resample", "controls=false", "cycle.generations=13"]
    different = [
        "fresh_share = 0.5",
        "fresh_schedule = [[0, 0.5], [12, 1.0]]",
        "fresh_schedule = [[0, 0.5], [11, 1.0]]",
        "fresh_schedule = [[0, 0.1], [2, 0.5]]",
        "name = 'incremental', fresh_share = 0.5",
        "name = 'incremental', fresh_share = 0.5, generated_share = 0.25",
    ]
    found = load("quick", [*settings, f"grid={{cycle = [{', '.join(f'{{{text}}}' for text in different)}]}}"])
    assert len(loops(found)) == len(different)


def test_the_meaning_of_a_cycle_is_what_each_generation_gets():
    """Catches a rule that tells loops apart, or takes them for one, otherwise than all their generations' rows do."""
    names, shares, times = (
        ("full_synthetic", "balanced", "incremental", "expanding"),
        (None, 0.0, 0.5, 1.0),
        (1, 2, 3, 9),
    )
    pairs = itertools.product(shares[1:], times, shares[1:])
    schedules = [None, *([[0, first], [begin, later]] for first, begin, later in pairs)]
    met = set()
    for name, fresh, generated, schedule, last in itertools.product(names, shares, shares, schedules, (1, 2, 4)):
        given = {"fresh_share": fresh, "generated_share": generated, "generations": last}
        try:
            one = CycleSettings(name=name, **given, fresh_schedule=schedule)
        except ValidationError:
            continue
        new = one.new_part if name == "incremental" else None
        # A run of one generation may be made longer: its second one counts.
        parts = None if new == 0 else tuple(one.fresh_part(generation) for generation in range(1, max(last, 2)))
        met.add(((name, last, new, parts), str(one.meaning)))
    assert len(met) == len({rows for rows, _ in met}) == len({meaning for _, meaning in met}) == 108


# Curation.


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["curation.name=verify"], "should be 'all', 'verifier', 'likelihood', 'most_copies', 'choice', 'detector'"),
        (["curation.name=[]"], "several of these in a list"),
        (['curation.name=["verifier","all"]'], "several of these in a list"),
        (['curation.name=["verifier","own:Mine"]'], "several of these in a list"),
        (['curation.name=["verifier","verifier"]'], "each check once"),
        (["curation.name=3"], "curation.name"),
        (["curation.false_accept=0.1"], "false_accept belongs to the check 'verifier', and name is 'all'"),
        (["curation.name=verifier", "curation.keep=middle"], "keep belongs to the check 'likelihood'"),
        (["curation.oversample=2.0"], "needs a check to choose by, and name is 'all'"),
        (["curation.name=detector", "curation.oversample=2.0"], "needs a check to choose by"),
    ],
)
def test_checks_that_cannot_be(overrides, said):
    """Catches a check that nobody knows, or a setting of one that is not there and would decide nothing."""
    assert said in refused("quick", *overrides)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [(["curation.name=verifier"], "should be 'all', 'likelihood', 'most_copies'"),
     (["curation.name=choice", "curation.reward=truth"], "curation.reward: should be 'source' or 'balance'")],
)  # fmt: skip
def test_checks_that_a_system_has_not(overrides, said):
    """Catches a verifier, or a reward for truth, where there is no right and wrong."""
    assert said in refused("gaussian", *overrides)


def test_a_chain_is_read_as_it_was_written():
    """Catches a list that comes back as another one, or as an axis cannot be told from a name."""
    config = load("quick", ['curation.name=["verifier","choice"]', "curation.choose_from=3"])
    assert config.curation.names == ("verifier", "choice")
    assert validated(tomllib.loads(dump(config)), "again") == config
    varied = load("quick", ["grid={'curation.name' = ['all', 'choice', ['verifier', 'choice']]}", "controls=false"])
    assert [loop.axes["curation.name"] for loop in loops(varied)] == ["all", "choice", '["verifier", "choice"]']


def test_controls_of_cells_that_differ_in_curation_are_one():
    """Catches a control beside each check, though no row that a model wrote trains in any of them."""
    config = load(
        "quick", ["grid={'curation.name' = ['all', 'verifier', 'most_copies']}", "controls=true", "seeds=[0]"]
    )
    assert [loop.config.curation.names for loop in loops(config)] == [(), ("verifier",), ("most_copies",), ()]
