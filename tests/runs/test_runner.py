import csv
import errno
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny import SETTINGS, Silent, results, run_silently, run_tiny, tiny_config

from jaxloop.commands.corpus import RunModel, check_lines
from jaxloop.config.schema import loops
from jaxloop.errors import InputError, RunError
from jaxloop.files import write_whole
from jaxloop.learners.transformer.score import log_prob
from jaxloop.runs.folder import RunFolder, load_parameters
from jaxloop.runs.runner import run
from jaxloop.systems.logic.judge import judge_jitted
from jaxloop.systems.logic.language import language_of
from jaxloop.systems.logic.vocabulary import EOS, VOCABULARY, decode


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "undisturbed"
    run(tiny_config(), path, "test", Silent())
    return path


def read(path, table="metrics") -> list[dict]:
    with (path / f"{table}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


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


def test_the_model_on_disk_is_the_one_that_wrote_the_samples(undisturbed):
    """Parameters of another generation, loop or layer, or a temperature of another cell, give other probabilities;
    and `jaxloop check --run` must say the same of the samples' texts.
    """
    config = tiny_config()
    for loop in range(2):
        with np.load(undisturbed / f"samples/loop_{loop:03d}/generation_002.npz") as saved:
            rows_NxT, log_prob_N = saved["tokens"], saved["log_prob"]
        parameters = load_parameters(undisturbed, loop)
        plain_N, tempered_N = log_prob(config.model, VOCABULARY, parameters, rows_NxT, config.sample.temperature)
        np.testing.assert_allclose(tempered_N, log_prob_N, rtol=1e-4, atol=1e-4)
        before = load_parameters(undisturbed, loop, 1)
        earlier = log_prob(config.model, VOCABULARY, before, rows_NxT, config.sample.temperature)
        assert np.abs(earlier[1] - log_prob_N).max() > 0.1 < np.abs(plain_N - tempered_N).max()

        texts = [decode(row_T) for row_T in rows_NxT]
        found, out = RunModel(undisturbed, loop, pytest.fail), io.StringIO()
        check_lines([f"{text}\n".encode() for text in [*texts, "( not", "nonsense", "True " * 16]], config, out, found)
        *lines, unfinished, nonsense, long = map(json.loads, out.getvalue().splitlines())
        for line, row_T, expected in zip(lines, rows_NxT, log_prob_N, strict=True):
            if EOS in row_T:
                assert line["model_log_prob_tempered"] == pytest.approx(expected, rel=1e-4, abs=1e-4)
        assert unfinished["model_log_prob"] < 0 and unfinished["verdict"] == "invalid"
        assert nonsense["model_log_prob"] is None and long["model_log_prob_tempered"] is None


def test_a_model_that_is_not_there_is_named_in_one_line(undisturbed, tmp_path):
    """Catches a traceback, or the model of another loop, where somebody mistypes."""
    for path, loop, message in ((tmp_path, 0, "is no run folder"), (undisturbed, 2, "has loops 0 to 1, and no loop 2")):
        with pytest.raises(InputError, match=message):
            RunModel(path, loop, pytest.fail)
    shutil.copytree(undisturbed, tmp_path / "copy")
    edit(tmp_path / "copy/config.toml", "layers = 1", "layers = 2")
    with pytest.raises(InputError, match=r"config\.toml: is not what the run wrote"):
        load_parameters(str(tmp_path / "copy"), 0)
    with pytest.raises(InputError, match="has generations 1, 2"):
        load_parameters(undisturbed, 0, 0)
    with pytest.raises(InputError, match="has loops 0 to 1, and no loop 7"):
        load_parameters(undisturbed, 7)


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


def truncate_largest_file(folder) -> None:
    largest = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


def test_a_damaged_checkpoint_is_noticed_and_the_one_before_it_used(undisturbed, tmp_path):
    """Half a checkpoint must neither end in a traceback nor be taken for a whole one."""
    shutil.copytree(undisturbed, tmp_path / "copy")
    truncate_largest_file(tmp_path / "copy/checkpoints/loop_001/2")
    display = run_tiny(tmp_path / "copy")
    assert display.kept == [(1, 2)]
    assert len(display.warnings) == 1 and "is damaged" in display.warnings[0]
    assert "loop 1 goes on from generation 1" in display.warnings[0]
    assert results(tmp_path / "copy") == results(undisturbed)


def test_without_any_whole_checkpoint_the_run_refuses(undisturbed, tmp_path):
    """Going on from nothing would silently throw away what was measured."""
    shutil.copytree(undisturbed, tmp_path / "copy")
    for generation in (1, 2):
        truncate_largest_file(tmp_path / f"copy/checkpoints/loop_000/{generation}")
    before = results(tmp_path / "copy")
    with pytest.raises(
        InputError, match=r"checkpoints/loop_000/1.*is damaged.*; put it right, or start anew with --overwrite"
    ):
        run_tiny(tmp_path / "copy")
    assert results(tmp_path / "copy") == before


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda run: (run / "tables/loop_000/provenance.csv").unlink(), "loop_000/provenance.csv: is missing"),
        (lambda run: (run / "tables/loop_001/tails.csv").unlink(), "loop_001/tails.csv: is missing"),
        (lambda run: drop_line(run / "tables/loop_000/tails.csv", 5), "loop_000/tails.csv: is damaged"),
        (
            lambda run: edit(run / "tables/loop_000/tails.csv", "tenth,1,0.1", "tenth,1,x"),
            "loop_000/tails.csv: is damaged",
        ),
        (lambda run: (run / "samples/loop_001/generation_001.npz").unlink(), "generation_001.npz: is missing"),
        (lambda run: shutil.rmtree(run / "checkpoints"), "checkpoints/loop_000/1/state.npz: is missing"),
        (lambda run: shutil.rmtree(run / "seals"), "loop_000: lacks seals of what .*tables/loop_000 holds"),
        (
            lambda run: (run / "tables/loop_000/metrics.csv").write_text("loop,generation\n0,0,0\n"),
            "metrics.csv: is damaged",
        ),
        (
            lambda run: edit(run / "tables/loop_000/metrics.csv", "true_share", "share"),
            "loop_000/metrics.csv: is damaged",
        ),
        (
            lambda run: edit(run / "tables/loop_000/metrics.csv", "0.0,0.", "0.0,abc"),
            "loop_000/metrics.csv: is damaged",
        ),
        (lambda run: edit(run / "config.toml", "[cycle]", "[cycle"), "config.toml: not valid TOML"),
    ],
)
def test_missing_or_damaged_results_are_refused_and_nothing_is_lost(undisturbed, tmp_path, damage, said):
    """Going on would write tables with holes, or silently make again what took hours."""
    shutil.copytree(undisturbed, tmp_path / "copy")
    damage(tmp_path / "copy")
    before = {path: path.read_bytes() for path in (tmp_path / "copy/tables").rglob("*.csv")}
    with pytest.raises(InputError, match=said):
        run_tiny(tmp_path / "copy")
    assert {path: path.read_bytes() for path in (tmp_path / "copy/tables").rglob("*.csv")} == before


def drop_line(path: Path, line: int) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:line] + lines[line + 1 :]))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_second_process_in_the_same_folder_is_turned_away(tmp_path):
    """Two processes that write the same files by accident would leave rows of both."""
    config = tiny_config()
    with (
        RunFolder(tmp_path / "run", config, "test"),
        pytest.raises(InputError, match="another jaxloop is running in it"),
    ):
        RunFolder(tmp_path / "run", config, "test")
    # Of processes that share a run, one may outlive the first.
    with (
        RunFolder(tmp_path / "run", config, "test", process=1),
        pytest.raises(InputError, match="another jaxloop is running in it"),
    ):
        RunFolder(tmp_path / "run", config, "test")
    (tmp_path / "run" / "tables" / "loop_000 (copy)").mkdir(parents=True)
    (tmp_path / "run" / "tables" / "loop_000 (copy)" / "metrics.csv").write_text("not ours")
    run_tiny(tmp_path / "run", "cycle.generations=3")


def test_a_folder_of_other_settings_is_refused_with_the_difference(undisturbed, tmp_path):
    """Mixing two configs in one folder would put rows side by side that do not belong together."""
    shutil.copytree(undisturbed, tmp_path / "copy")
    with pytest.raises(InputError, match=r"sample\.temperature: 0\.75 -> 0\.8.*--overwrite"):
        run_tiny(tmp_path / "copy", "sample.temperature=0.8")
    assert results(tmp_path / "copy") == results(undisturbed)
    run_tiny(tmp_path / "copy", "sample.temperature=0.8", "cycle.generations=1", overwrite=True)
    assert len(read(tmp_path / "copy")) == 2


def test_a_folder_that_is_no_run_is_never_touched(tmp_path):
    """--overwrite in the wrong place must not delete what is not ours."""
    (tmp_path / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="no run folder and not empty"):
            run_tiny(tmp_path, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "config.toml").write_text("seeds = [0]")
    with pytest.raises(InputError, match="no run folder and not empty"):
        run_tiny(tmp_path / "site", overwrite=True)
    assert (tmp_path / "site" / "config.toml").read_text() == "seeds = [0]"
    with pytest.raises(InputError, match="is a file"):
        run_tiny(tmp_path / "thesis.tex")
    with pytest.raises(InputError, match="cannot be used as a run folder"):
        run_tiny(tmp_path / "thesis.tex" / "below")


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

    monkeypatch.setattr("jaxloop.runs.folder.write_whole", full)
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


def test_starting_anew_leaves_nothing_of_the_old_answer(tmp_path):
    """A summary or a figure of the old run beside the new one; something of the user's own deleted with them."""
    figures = tmp_path / "run" / "figures"
    with RunFolder(tmp_path / "run", tiny_config(), "test"):
        figures.mkdir()
        for name in ("overview", "diversity", "final", "correctness", "heat_map", "mine"):
            (figures / f"{name}.png").touch()
        (tmp_path / "run" / "summary.csv").touch()
    with RunFolder(tmp_path / "run", tiny_config(), "test", overwrite=True):
        assert [path.name for path in figures.iterdir()] == ["mine.png"]
        assert not (tmp_path / "run" / "summary.csv").exists()


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
