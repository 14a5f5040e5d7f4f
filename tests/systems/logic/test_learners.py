"""The learners of the language, from fits to whole runs, against what is known of them."""

import math

import numpy as np
import pytest
from tiny import Silent, results, run_silently, run_tiny, tiny_config

from jaxloop.config.presets import load
from jaxloop.config.schema import loops
from jaxloop.errors import InputError
from jaxloop.loop.rows import unique_rows
from jaxloop.loop.run_loops import run_loops
from jaxloop.runs.measuring import kept_of
from jaxloop.systems.logic.language import Language
from jaxloop.systems.logic.learners import FITS, reference_learner
from jaxloop.systems.logic.settings import LogicLearnerSettings
from jaxloop.systems.logic.system import Logic
from jaxloop.systems.logic.yardsticks import WHOLE


def silent(*_) -> None:
    """Watches nothing."""


def test_every_learner_that_may_be_asked_for_is_there():
    """Catches a name that the settings allow and nobody fits: a run would break off where its turn comes."""
    names = LogicLearnerSettings.model_json_schema()["properties"]["name"]["enum"]
    assert {"transformer", *FITS, "module:Name"} == set(names)


def fitted(name: str):
    config = tiny_config(f"learner.name={name}", "grid={}")
    training_NxT = Language(1, 2).draw(np.random.default_rng(0), 500, 16)
    return FITS[name](loops(config)[0], training_NxT)


@pytest.mark.parametrize("name", FITS)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_each_writes_what_it_says_that_it_writes(name, temperature):
    """Catches a log-probability that is not that of the rows written: without the temperature, or of another model."""
    model = fitted(name)
    rows_NxT = model.write(np.random.default_rng(1), 20_000, temperature)
    assert rows_NxT.shape == (20_000, 16) and rows_NxT.dtype == np.uint8
    tokens_UxT, _, counts_U = unique_rows(rows_NxT)
    probability_U = np.exp(model.log_prob(tokens_UxT, temperature))
    assert np.all(probability_U > 0) and probability_U.sum() <= 1 + 1e-9
    expected_U = probability_U * len(rows_NxT)
    common = expected_U > 20
    z = (counts_U - expected_U)[common] / np.sqrt(expected_U[common])
    assert common.sum() > 5 and np.abs(z).max() < 5
    assert counts_U[~common].sum() == pytest.approx(len(rows_NxT) * (1 - probability_U[common].sum()), rel=0.2, abs=60)


def measured(*overrides: str) -> list[dict]:
    """The tables of every generation of a reference loop."""
    config = tiny_config("grid={}", *overrides)
    logic, learner, found = Logic(), reference_learner(), []
    yardsticks = logic.measures(config)
    run_loops(
        loops(config), {}, logic, learner, yardsticks.probes(learner),
        lambda record: found.append(kept_of(record, yardsticks, logic)[1]), silent,
    )  # fmt: skip
    return found


DEPTH_3 = [
    "language.max_depth=3",
    "model.context_tokens=32",
    "cycle.rows=4000",
    "measure.enumerate_every_generations=1",
]


def test_the_oracle_at_temperature_1_has_lost_nothing():
    """An instrument that reads a distance where there is none cannot be trusted with a small one."""
    (tables,) = measured("learner.name=oracle", "sample.temperature=1.0", "cycle.generations=1", *DEPTH_3)
    (columns,) = tables["metrics"]
    for name in ("forward_kl_nats", "untempered_forward_kl_nats", "reverse_kl_nats", "total_variation"):
        assert abs(columns[name]) < 1e-5
        assert abs(columns[f"exact_{name}".replace("untempered_", "")]) < 1e-5
    for name in ("outside_share", "exact_false_share", "exact_invalid_share"):
        assert columns[name] == pytest.approx(0, abs=1e-9)
    assert columns["alive_share"] == 1 and columns["exact_covered_share"] == pytest.approx(1)
    assert columns["model_entropy_nats"] == pytest.approx(columns["source_entropy_nats"], abs=0.2)
    for row in tables["tails"]:
        assert row["model_share"] == pytest.approx(row["source_share"], abs=1e-9)
        assert row["alive_share"] == pytest.approx(1)
    (sampled,) = measured(
        "learner.name=oracle", "sample.temperature=1.0", "cycle.generations=1", *DEPTH_3,
        "measure.enumerate_every_generations=0",
    )  # fmt: skip
    for row in sampled["tails"]:
        assert row["model_share"] == pytest.approx(
            row["source_share"], abs=4.5 * row["model_share_standard_error"] + 1e-4
        )


def test_the_oracle_at_temperature_0_6_against_sums_over_prefixes():
    """The whole way from the learner to the columns, against conditional probabilities that are summed from the
    enumerated language without any model: catches a temperature that is lost on the way.
    """
    (tables,) = measured("learner.name=oracle", "sample.temperature=0.6", "cycle.generations=1", *DEPTH_3)
    (columns,) = tables["metrics"]
    language = Language(1, 3)
    rows_WxT = language.enumerate(32)
    log_prob_W = language.log_prob(rows_WxT)
    rows_WxT, log_prob_W = rows_WxT[np.isfinite(log_prob_W)], log_prob_W[np.isfinite(log_prob_W)]
    tempered_W = np.zeros(len(rows_WxT))
    group_W = np.zeros(len(rows_WxT), np.int64)  # which prefix each row has, before each place
    for place in range(32):
        code_W = group_W * 8 + rows_WxT[:, place]
        branches, next_W = np.unique(code_W, return_inverse=True)
        mass = np.bincount(next_W, weights=np.exp(log_prob_W))
        powered = (mass / np.bincount(group_W, weights=np.exp(log_prob_W))[branches // 8]) ** (1 / 0.6)
        powered /= np.bincount(branches // 8, weights=powered)[branches // 8]
        tempered_W += np.log(powered[next_W])
        group_W = next_W
    p, q = np.exp(log_prob_W), np.exp(tempered_W)
    assert q.sum() == pytest.approx(1)
    assert columns["exact_forward_kl_nats"] == pytest.approx(np.sum(p * (log_prob_W - tempered_W)), abs=1e-8)
    assert columns["exact_reverse_kl_nats"] == pytest.approx(np.sum(q * (tempered_W - log_prob_W)), abs=1e-8)
    assert columns["exact_total_variation"] == pytest.approx(0.5 * np.abs(p - q).sum(), abs=1e-8)
    assert columns["exact_covered_share"] == pytest.approx(p[q >= 0.1 * p].sum(), abs=1e-8)
    assert 0.1 < columns["exact_total_variation"] < 0.9


def test_what_is_not_due_is_not_measured():
    """Catches an expensive measure that cannot be switched off, and a number where there is none."""
    tables = measured(
        "learner.name=ngram", "cycle.generations=5", "measure.distances_every_generations=2",
        "measure.structure_every_generations=0", "measure.enumerate_every_generations=3",
    )  # fmt: skip
    for generation, of_generation in enumerate(tables):
        (columns,) = of_generation["metrics"]
        assert math.isfinite(columns["forward_kl_nats"]) == (generation % 2 == 0) == bool(of_generation["tails"])
        assert math.isfinite(columns["exact_total_variation"]) == (generation % 3 == 0)
        assert math.isnan(columns["canonical_hill_0"]) and math.isnan(columns["distinct_2"])
        assert math.isfinite(columns["outside_share"])
    assert WHOLE == "whole_language"


@pytest.mark.parametrize("cycle", ["full_synthetic", "balanced"])  # without an archive of earlier rows, and with one
def test_references_run_beside_the_transformer_and_resume(tmp_path, cycle):
    """One command, every learner and its control; an interruption may lose none of them, whichever was being run."""
    grid = 'grid={"learner.name" = ["transformer", "resample", "grammar", "ngram", "oracle"]}'
    settings = ["controls=true", f"cycle.name={cycle}", grid]
    run_tiny(tmp_path / "whole", *settings)
    for stop_after in (7, 20):
        with pytest.raises(KeyboardInterrupt):
            run_tiny(tmp_path / "broken", *settings, display=Silent(stop_after))
    run_tiny(tmp_path / "broken", *settings)
    assert results(tmp_path / "broken") == results(tmp_path / "whole")
    assert len({loop.config.learner.name for loop in loops(tiny_config(*settings))}) == 5


def test_a_language_that_cannot_be_enumerated_costs_nothing(tmp_path):
    """Hours of training must not end in the message that a measure is impossible; nor may the run that lies in the
    folder be gone after it.
    """
    run_tiny(tmp_path / "run", "learner.name=resample")
    before = results(tmp_path / "run")
    config = load("bench", ["measure.enumerate_every_generations=1"])
    for path in (tmp_path / "run", tmp_path / "new"):
        with pytest.raises(InputError, match="at most 1,000,000 are enumerated"):
            run_silently(config, path, overwrite=True)
    assert results(tmp_path / "run") == before
    assert not (tmp_path / "new").exists()
