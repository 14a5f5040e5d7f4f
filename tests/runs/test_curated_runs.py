"""Runs whose rows must pass something before they train: kept, resumed, and ended where nothing passes."""

import numpy as np
import pandas as pd
import pytest
from tiny import Silent, results, run_tiny, tiny_config

from jaxloop.errors import RunError
from jaxloop.runs.runner import run
from jaxloop.runs.stored import StoredRun

MEMORISER = ("learner.name=resample", "grid={}", "cycle.generations=6")
CHAIN = (
    'curation.name=["likelihood","most_copies","choice","detector"]',
    "curation.oversample=1.5",
    "curation.shortfall=fresh",
    "cycle.fresh_share=0.2",
)


def metrics_of(path) -> pd.DataFrame:
    return pd.read_csv(path / "metrics.csv")


@pytest.mark.parametrize("memory", ["full_synthetic", "balanced", "expanding", "subsampled"])
def test_a_run_that_is_interrupted_goes_on_with_the_same_bits(tmp_path, memory):
    """Catches chance that depends on where a run stands, and rows that passed but are not kept."""
    settings = (
        "learner.name=ngram",
        "learner.order=3",
        "grid={}",
        "cycle.generations=6",
        f"cycle.name={memory}",
        *CHAIN,
    )
    run_tiny(tmp_path / "whole", *settings)
    with pytest.raises(KeyboardInterrupt):
        run(tiny_config(*settings), tmp_path / "broken", "", Silent(stop_after=3))
    run_tiny(tmp_path / "broken", *settings)
    assert results(tmp_path / "whole") == results(tmp_path / "broken")
    metrics = metrics_of(tmp_path / "whole")
    assert metrics["accepted_share"].between(0.01, 0.4).all()
    assert (metrics["effective_rows"] <= 60).all()
    # Half of 180 rows are the likeliest; the picks among their different ones, and 12 fresh rows and those that lack.
    assert (metrics["human_rows"][1:] > 12).all() and metrics["human_rows"][0] > 0


def test_fresh_rows_take_the_place_of_what_did_not_pass(tmp_path):
    """Catches fresh rows that are other rows than the source's, are drawn twice alike, or are not counted."""
    settings = ("curation.name=most_copies", "curation.shortfall=fresh", "cycle.fresh_share=0.25")
    run_tiny(tmp_path / "run", *MEMORISER, *settings)
    metrics = metrics_of(tmp_path / "run")
    passed = metrics["accepted_share"].to_numpy()[:-1] * 60
    np.testing.assert_allclose(metrics["human_rows"].to_numpy()[1:], 60 - passed + 15)
    trained = metrics["fresh_rows_share"].to_numpy()[1:] * 60
    assert ((trained >= np.maximum(60 - passed, 15) - 1e-9) & (trained <= 60 - passed + 15 + 1e-9)).all()


@pytest.mark.parametrize("memory", ["full_synthetic", "balanced"])
def test_a_loop_of_which_nothing_passes_ends_and_says_so(tmp_path, memory):
    """Catches a loop that goes on with nothing, or loses what was measured; the same command says the same again, and
    another cell goes on.
    """
    settings = (*MEMORISER, "curation.name=verifier", f"cycle.name={memory}")
    grid = "grid={curation = [{false_reject = 1.0}, {false_reject = 0.5}]}"
    for _ in range(2):
        with pytest.raises(RunError, match="no row that the model wrote passed curation: loop 0 in generation 0"):
            run_tiny(tmp_path / "run", *settings, grid)
        metrics = metrics_of(tmp_path / "run")
        assert metrics.groupby("loop")["generation"].max().to_dict() == {0: 0, 1: 5}
        assert metrics["true_share"].notna().all()
    run_tiny(tmp_path / "fresh", *settings, "curation.false_reject=1.0", "curation.shortfall=fresh")
    assert metrics_of(tmp_path / "fresh")["human_rows"].tolist() == [0, *[60] * 5]


def test_columns_of_remedies_stand_where_there_are_some(tmp_path):
    """Catches columns that no reader knows, and files of other runs that change."""
    run_tiny(tmp_path / "without", *MEMORISER)
    run_tiny(tmp_path / "with", *MEMORISER, "grid={'curation.name' = ['all', 'most_copies']}")
    names = {"accepted_share", "effective_rows", "human_rows"}
    assert not names & set(metrics_of(tmp_path / "without").columns)
    metrics = metrics_of(tmp_path / "with")
    assert names <= set(metrics.columns)
    assert names <= {column.name for column in StoredRun(tmp_path / "with").columns.declared}
    without = metrics[metrics["curation.name"] == "all"]
    assert without[["accepted_share", "effective_rows", "human_rows"]].drop_duplicates().to_numpy().tolist() == [
        [1, 60, 0]
    ]


def test_aimed_rows_are_counted_where_no_check_is(tmp_path):
    """Catches a run of enrichment that does not say what it cost."""
    aimed = "grid={'cycle.fresh_target' = ['random', 'least_covered']}"
    run_tiny(tmp_path / "run", *MEMORISER, aimed, "cycle.fresh_share=0.25")
    metrics = metrics_of(tmp_path / "run")
    assert metrics[metrics["generation"] > 0]["human_rows"].tolist() == [15.0] * 10
    assert metrics["accepted_share"].tolist() == [1.0] * 12
    assert metrics["cycle.fresh_target"].unique().tolist() == ["random", "least_covered"]
