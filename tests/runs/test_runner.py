"""A run as a whole: what it leaves, and that it goes on to the same bits however it was broken off."""

import errno
import json
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from tiny import SETTINGS, Silent, read, results, run_silently, run_tiny, tiny_config

from jaxloop.config.schema import loops
from jaxloop.errors import RunError
from jaxloop.files import write_whole
from jaxloop.systems.logic.judge import judge_jitted
from jaxloop.systems.logic.language import language_of


def test_a_run_leaves_everything_that_is_promised(undisturbed):
    """A missing file, column or row is found here and not by the reader of the results."""
    rows = read(undisturbed)
    assert list(rows[0])[:4] == ["loop", "seed", "generation", "cycle.fresh_share"]
    assert [(row["loop"], row["generation"]) for row in rows] == [
        (str(loop), str(generation)) for loop in range(2) for generation in range(3)
    ]
    for row in rows:
        shares = [float(row[f"{name}_share"]) for name in ("true", "false", "invalid")]
        assert sum(shares) == pytest.approx(1, abs=1e-12)
        faults = [float(row[f"{name}_share"]) for name in ("syntax", "unfinished", "empty")]
        assert sum(faults) == pytest.approx(shares[2], abs=1e-12)
        origins = [float(row[f"{name}_rows_share"]) for name in ("real", "fresh", "sampled")]
        fresh = float(row["cycle.fresh_share"]) if row["generation"] != "0" else 0
        assert origins == ([1, 0, 0] if row["generation"] == "0" else [0, fresh, 1 - fresh])
        assert float(row["source_entropy_nats"]) == language_of(tiny_config().language).entropy_nats
        assert float(row["training_steps"]) == 30
    for name in ("config.toml", "manifest.json", "timings.csv", "summary.csv", "figures/overview.png"):
        assert (undisturbed / name).stat().st_size > 0
    assert len(read(undisturbed, "timings")) == len(rows)


def test_saved_samples_are_those_that_were_measured(undisturbed):
    """Samples of another generation or loop beside a row of metrics would send every later analysis astray."""
    for row in read(undisturbed):
        path = undisturbed / "samples" / f"loop_{int(row['loop']):03d}" / f"generation_{int(row['generation']):03d}.npz"
        with np.load(path, allow_pickle=False) as saved:
            assert saved["tokens"].shape == (60, 16)
            np.testing.assert_array_equal(saved["verdict"], judge_jitted(saved["tokens"]).verdict_N)
            assert np.mean(saved["verdict"] == 2) == float(row["true_share"])
            assert len(np.unique(saved["tokens"], axis=0)) / 60 == float(row["unique_share"])


def test_cells_that_share_a_seed_begin_alike_and_then_part(undisturbed):
    """Without paired randomness a difference between two cells is noise before it is an effect."""
    rows = read(undisturbed)
    first, second = ([row["held_out_nats"] for row in rows if row["loop"] == loop] for loop in "01")
    assert first[0] == second[0]
    assert first[1] != second[1]


def test_a_loop_alone_equals_the_same_loop_as_one_of_several(undisturbed, tmp_path):
    """A key, a batch or a padded place that depends on the neighbours makes results depend on what else is run."""
    run_tiny(tmp_path / "many", "seeds=[5,0,3]")
    many, alone = read(tmp_path / "many"), read(undisturbed)
    ours = [row for row in many if row["seed"] == "0"]
    assert len(many) == 3 * len(alone)
    for one, other in zip(alone, ours, strict=True):
        assert {**one, "loop": None} == {**other, "loop": None}
    assert len({row["held_out_nats"] for row in many if row["generation"] == "0"}) == 3, "seeds must differ"


def test_loops_mapped_together_on_a_device_agree_with_loops_apart(undisturbed, tmp_path):
    """How accelerators compute loops: a mapped axis that mixes members up shows long before rounding does."""
    run_tiny(tmp_path / "mapped", "population.loops_per_device=3", "seeds=[5,0,3]")
    mapped = [row for row in read(tmp_path / "mapped") if row["seed"] == "0" and row["generation"] == "0"]
    alone = [row for row in read(undisturbed) if row["generation"] == "0"]
    for one, other in zip(alone, mapped, strict=True):
        assert float(other["held_out_nats"]) == pytest.approx(float(one["held_out_nats"]), rel=1e-3)
        assert float(other["validation_nats"]) == pytest.approx(float(one["validation_nats"]), rel=1e-3)
        assert other["training_diversity"] == one["training_diversity"]


def test_the_number_of_devices_changes_no_bit(tmp_path):
    """A program that depends on how many devices there are gives other results on every machine."""
    seeds = "seeds=[0,1,2,3]"
    command = [sys.executable, "-m", "jaxloop", "run", "quick", *SETTINGS, seeds, "--out", str(tmp_path / "eight")]
    eight = {**os.environ, "JAX_NUM_CPU_DEVICES": "8"}
    subprocess.run(command, check=True, timeout=300, env=eight, capture_output=True)
    assert json.loads((tmp_path / "eight/manifest.json").read_text())["sessions"][0]["devices"] == 8
    run_tiny(tmp_path / "few", seeds)
    assert results(tmp_path / "eight") == results(tmp_path / "few")


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_an_interrupted_run_goes_on_to_the_same_bits(undisturbed, tmp_path, stop_after):
    """A carry, key or row that is not restored as it was shows as another sample, or as a row twice."""
    with pytest.raises(KeyboardInterrupt):
        run_tiny(tmp_path / "run", display=Silent(stop_after))
    kept = len(read(tmp_path / "run"))
    assert stop_after <= kept < 6
    second = run_tiny(tmp_path / "run")
    assert len(second.kept) == 6 - kept, "what was kept is not made again"
    assert results(tmp_path / "run") == results(undisturbed)


@pytest.mark.parametrize("cycle", ["balanced", "incremental", "expanding"])
def test_every_cycle_resumes_to_the_same_bits(tmp_path, cycle):
    """A cycle that draws from rows which the checkpoint lacks would go on with others."""
    settings = [f"cycle.name={cycle}", "cycle.generations=4"]
    if cycle == "incremental":
        settings.append("cycle.generated_share=0.5")
    run_tiny(tmp_path / "whole", *settings)
    with pytest.raises(KeyboardInterrupt):
        run_tiny(tmp_path / "broken", *settings, display=Silent(5))
    run_tiny(tmp_path / "broken", *settings)
    assert results(tmp_path / "broken") == results(tmp_path / "whole")


def test_a_finished_run_computes_nothing_more(undisturbed, tmp_path):
    """Calling the same command once more must neither cost a generation nor change a result."""
    shutil.copytree(undisturbed, tmp_path / "copy")
    display = run_tiny(tmp_path / "copy")
    assert display.kept == [] and display.resumed == {0: 2, 1: 2}
    assert results(tmp_path / "copy") == results(undisturbed)


def test_a_loop_that_diverges_leaves_the_others_whole(tmp_path):
    """One bad learning rate in a grid must not cost the other cells, nor write numbers that are none."""
    grid = "grid={'train.learning_rate' = [1e-2, 1e6]}"
    display = Silent()
    with pytest.raises(RunError, match=r"loop 1 in generation 0; .*learning_rate \(there 1e\+06\)"):
        run_tiny(tmp_path / "run", grid, display=display)
    assert any(line.startswith("  learning rate 0.01: ") for line in display.lines), "the healthy cell has its answer"
    assert [row["loop"] for row in read(tmp_path / "run")] == ["0", "0", "0"]


@pytest.mark.parametrize("breaks_off", [False, True])
def test_a_disk_that_is_full_at_the_end_costs_no_answer(tmp_path, monkeypatch, breaks_off):
    """The answer was given after the tables at the top were written: none where those cannot be."""

    def full(path, content):
        if path.name == "metrics.csv" and path.parent == tmp_path / "run":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write_whole(path, content)

    class BreakingOff(Silent):
        def finished(self, loop, generation, columns) -> None:
            super().finished(loop, generation, columns)
            if breaks_off and generation == 1:
                raise RunError("in mid-run")

    monkeypatch.setattr("jaxloop.runs.tables.write_whole", full)
    display = BreakingOff()
    with pytest.raises(RunError, match="in mid-run" if breaks_off else "could not be written: No space left"):
        run_tiny(tmp_path / "run", "learner.name=resample", display=display)
    assert display.lines[0].startswith("kept diversity")


@pytest.mark.parametrize("cycle", ["full_synthetic", "expanding"])
def test_no_generation_after_the_first_compiles_anything(tmp_path, cycle):
    """A shape that changes with the generation costs seconds at each: more than training a small one."""
    counts = []
    for generations in (2, 10):
        jax.clear_caches()
        events = []

        def listen(event, duration, events=events, **_):
            if event == "/jax/core/compile/backend_compile_duration":
                events.append(event)

        jax.monitoring.register_event_duration_secs_listener(listen)
        run_tiny(tmp_path / str(generations), f"cycle.name={cycle}", f"cycle.generations={generations}")
        jax.monitoring.unregister_event_duration_listener(listen)
        counts.append(len(events))
    assert counts[0] == counts[1] > 0


def test_the_model_sees_its_own_loop_only():
    """Loops are numbered by cell and seed: a wrong order would give a cell another cell's share."""
    config = tiny_config("seeds=[4,7]")
    assert [(loop.index, loop.seed, loop.config.cycle.fresh_share) for loop in loops(config)] == [
        (0, 4, 0.0), (1, 7, 0.0), (2, 4, 0.5), (3, 7, 0.5),
    ]  # fmt: skip


MIXED = (
    "grid={'cycle' = [{name = 'full_synthetic', fresh_schedule = [[0, 0.0], [2, 0.5]]}, "
    "{name = 'incremental', generated_share = 0.25}, {name = 'expanding'}], 'language.max_depth' = [1, 2]}"
)
SUMMED = "measure.enumerate_every_generations=2"


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "mixed"
    run_tiny(path, MIXED, SUMMED)
    return path


def test_a_mixed_grid_has_every_column_for_every_loop(mixed):
    """Catches columns of the first program or cell for all, and a number or a word where a setting is unset."""
    columns = ["name", "fresh_schedule", "generated_share"]
    columns = [*(f"cycle.{name}" for name in columns), "language.max_depth"]
    rows = read(mixed)
    assert list(rows[0])[:7] == ["loop", "seed", "generation", *columns]
    cells = [
        ["full_synthetic", "[[0, 0.0], [2, 0.5]]", ""],
        ["incremental", "", "0.25"],
        ["expanding", "", ""],
    ]
    expected = [
        (str(2 * place + depth - 1), str(generation), *cell, str(depth))
        for place, cell in enumerate(cells)
        for depth in (1, 2)
        for generation in range(3)
    ]
    assert [(row["loop"], row["generation"], *map(row.get, columns)) for row in rows] == expected
    for row in rows:
        language = loops(tiny_config(MIXED))[int(row["loop"])].config.language
        assert float(row["source_entropy_nats"]) == language_of(language).entropy_nats


def test_each_loop_of_a_mixed_grid_equals_that_loop_alone(mixed, tmp_path):
    """Catches loops that get the language, capacity, probes or cycle of another program of the same run."""
    alone = {loop.index: loop for loop in loops(tiny_config(MIXED, SUMMED))}
    rows = read(mixed)
    for index in (0, 3, 4):  # both languages, all cycles
        path = tmp_path / str(index)
        run_silently(alone[index].config, path)
        ours = [row for row in rows if row["loop"] == str(index)]
        for one, other in zip(read(path), ours, strict=True):
            assert other.items() >= {**one, "loop": str(index)}.items()
        for table in ("tails", "provenance", "top_samples"):
            found = [row for row in read(mixed, table) if row["loop"] == str(index)]
            assert [{**row, "loop": str(index)} for row in read(path, table)] == found
        for generation in range(3):
            saved = [
                np.load(folder / f"samples/loop_{loop:03d}/generation_{generation:03d}.npz")
                for folder, loop in ((path, 0), (mixed, index))
            ]
            for name in saved[0]:
                np.testing.assert_array_equal(saved[0][name], saved[1][name])


@pytest.mark.parametrize("stop_after", [2, 11])
def test_an_interrupted_mixed_run_goes_on_to_the_same_bits(mixed, tmp_path, stop_after):
    """Catches a program that is left out or begun anew once the run is resumed in its middle."""
    with pytest.raises(KeyboardInterrupt):
        run_tiny(tmp_path / "run", MIXED, SUMMED, display=Silent(stop_after))
    kept = len(read(tmp_path / "run"))
    assert stop_after <= kept < 18
    assert len(run_tiny(tmp_path / "run", MIXED, SUMMED).kept) == 18 - kept
    assert results(tmp_path / "run") == results(mixed)
