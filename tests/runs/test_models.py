"""Which models of a run are kept, however it ends."""

import shutil
from pathlib import Path

import pytest
from tiny import Silent, assert_same, contents, results, run_tiny, tiny_config

from jaxloop import layout
from jaxloop.commands.corpus import RunModel
from jaxloop.config.schema import loops
from jaxloop.errors import InputError, RunError
from jaxloop.runs import models
from jaxloop.runs.folder import RunFolder
from jaxloop.runs.integrity import verify_run
from jaxloop.runs.stored_models import load_parameters


def saved(run: Path) -> dict[int, list[int]]:
    """The generations of each loop that have a model."""
    return {loop: sorted(layout.model_generations(run, loop)) for loop in layout.loops_with(run, "models")}


def test_the_newest_model_is_kept_and_every_so_many(kept, tmp_path):
    """Models that nobody asked for fill a disk; one that is asked for and is not there is lost for ever."""
    assert saved(kept) == {0: [0, 1, 2], 1: [0, 1, 2]}
    run_tiny(tmp_path / "newest")
    assert saved(tmp_path / "newest") == {0: [2], 1: [2]}
    run_tiny(tmp_path / "second", "store.models_every_generations=2", "cycle.generations=4")
    assert saved(tmp_path / "second") == {0: [0, 2, 3], 1: [0, 2, 3]}
    for loop in range(2):
        assert_same(load_parameters(kept, loop, 2), load_parameters(tmp_path / "newest", loop))
    assert results(kept) == results(tmp_path / "newest")
    run_tiny(tmp_path / "none", "learner.name=resample")
    assert not (tmp_path / "none/models").exists()
    with pytest.raises(InputError, match="reference learners have no parameters"):
        load_parameters(tmp_path / "none", 0)


@pytest.mark.parametrize("stop_after", [1, 2, 3, 5])
def test_an_interrupted_run_leaves_the_newest_model_of_each_loop(kept, tmp_path, stop_after):
    """Hours of training end with Ctrl-C, and there is no model at all; or that of another generation."""
    with pytest.raises(KeyboardInterrupt):
        run_tiny(tmp_path / "run", display=Silent(stop_after))
    for loop in layout.loops_with(tmp_path / "run", "seals"):
        newest = layout.sealed_generations(tmp_path / "run", loop)[0]
        assert saved(tmp_path / "run")[loop] == [newest]
        assert_same(load_parameters(tmp_path / "run", loop), load_parameters(kept, loop, newest))
    assert verify_run(tmp_path / "run").damages == []
    run_tiny(tmp_path / "run")
    assert saved(tmp_path / "run") == {0: [2], 1: [2]}, "what was interrupted is not kept beside the newest"
    assert verify_run(tmp_path / "run").damages == []


def test_a_run_that_breaks_off_leaves_the_newest_model_of_each_loop(tmp_path):
    """A loop that diverges, or a fault in mid-run, must not cost the models of the others."""

    class BreakingOff(Silent):
        def finished(self, loop, generation, columns) -> None:
            super().finished(loop, generation, columns)
            if generation == 1:
                raise RunError("in mid-run")

    with pytest.raises(RunError, match="in mid-run"):
        run_tiny(tmp_path / "run", display=BreakingOff())
    assert saved(tmp_path / "run") == {loop: [layout.sealed_generations(tmp_path / "run", loop)[0]] for loop in (0, 1)}


def test_a_model_that_a_kill_has_cost_is_told_where_it_is_asked_for(kept, tmp_path, monkeypatch):
    """Another generation's model in its place, with exit code 0; or a traceback."""
    monkeypatch.setattr(RunFolder, "write_models", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        run_tiny(tmp_path / "none", display=Silent(4))
    with pytest.raises(InputError, match=r"models/loop_000: has no model of .* cannot where it is killed outright"):
        load_parameters(tmp_path / "none", 0)
    with pytest.raises(KeyboardInterrupt):
        run_tiny(tmp_path / "older", "store.models_every_generations=3", display=Silent(4))
    newest, last = "the newest model is of generation 0", "the last that is finished is 1"
    with pytest.raises(InputError, match=f"{newest}, and {last}.*name one of generations 0"):
        load_parameters(tmp_path / "older", 0)
    assert_same(load_parameters(tmp_path / "older", 0, 0), load_parameters(kept, 0, 0))
    told = []
    RunModel(tmp_path / "older", 0, told.append)
    assert len(told) == 1 and newest in told[0] and last in told[0]
    assert verify_run(tmp_path / "older").damages == []


def test_what_memory_does_not_hold_is_written_at_once(kept, tmp_path, monkeypatch):
    """A thousand loops of a large model held until the run ends: killed for memory."""
    monkeypatch.setattr(RunFolder, "write_models", lambda *_: None)
    size = models._size(load_parameters(kept, 0))
    monkeypatch.setattr(models, "MOST_HELD_BYTES", size)
    with pytest.raises(KeyboardInterrupt):
        run_tiny(tmp_path / "run", display=Silent(4))
    newest = {loop: layout.sealed_generations(tmp_path / "run", loop)[0] for loop in (0, 1)}
    written = saved(tmp_path / "run")
    assert len(written) == 1, "one is held"
    ((loop, generations),) = written.items()
    assert generations == [newest[loop]], "the one before is not kept"


def test_a_longer_run_keeps_its_newest_model_and_those_that_stay(tmp_path):
    """What was to stay must stay, whatever the command says that goes on."""
    run_tiny(tmp_path / "run", "cycle.generations=1")
    run_tiny(tmp_path / "run", "cycle.generations=3", "store.models_every_generations=2")
    assert saved(tmp_path / "run") == {0: [2], 1: [2]}, "generation 0 was the newest, and nothing more"
    run_tiny(tmp_path / "run", "cycle.generations=4")
    assert saved(tmp_path / "run") == {0: [2, 3], 1: [2, 3]}


def test_a_disk_that_is_full_while_a_model_is_written_costs_no_generation(kept, tmp_path, monkeypatch):
    """Half a model that passes for one; a generation that counts as finished, and whose model never comes."""
    write = models._write

    def full(folder: Path, parameters: dict) -> None:
        write(folder.with_name(f"{folder.name}.orbax-checkpoint-tmp"), parameters)
        raise OSError(None, "No space left on device", str(folder))

    with monkeypatch.context() as patched:
        patched.setattr(models, "_write", full)
        display = Silent()
        with pytest.raises(RunError, match=r"generation 2 of loop \d could not be written: No space left on device"):
            run_tiny(tmp_path / "run", display=display)
    assert [line for line in display.warnings if "models were not written: No space left on device" in line]
    assert {layout.sealed_generations(tmp_path / "run", loop)[0] for loop in (0, 1)} == {1}
    assert not any(saved(tmp_path / "run").values())
    run_tiny(tmp_path / "run")
    assert results(tmp_path / "run") == results(kept)
    names = {path.name for path in (tmp_path / "run/models").glob("*/*")}
    assert names == {"generation_002", "generation_002.json"}, "nothing of the half is left"


def test_nothing_is_touched_that_is_not_a_model(kept, tmp_path):
    """Files of its owner beside the models are deleted with old ones."""
    copy = Path(shutil.copytree(kept, tmp_path / "copy"))
    mine = [copy / "models/loop_000" / name for name in ("notes.txt", "generation_notes.txt", "my_generation_001")]
    for path in mine:
        path.write_text("mine")
    before = contents(copy / "models/loop_001")
    models.forget_models(copy, loops(tiny_config())[0], 2)
    assert all(path.exists() for path in mine) and saved(copy)[0] == [0, 1, 2]
    assert contents(copy / "models/loop_001") == before
