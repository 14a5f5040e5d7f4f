"""What a run leaves in its folder, and what becomes of a folder that goes."""

import math
import shutil

import pytest
from tiny import MEMORISER, Silent, read, results, run_tiny

from jaxloop import files, layout
from jaxloop.config.schema import loops
from jaxloop.errors import InputError, RunError
from jaxloop.files import unseal_json
from jaxloop.runs import checkpoints, folder, tables
from jaxloop.runs.integrity import verify_run
from jaxloop.runs.stored import StoredRun


@pytest.mark.parametrize("act", ["remove", "replace"])
def test_a_folder_that_goes_in_mid_run_is_not_made_again(tmp_path, act):
    """What was left of the run would stand there without its config, with exit code 0."""

    class Removing(Silent):
        def finished(self, loop, generation, columns):
            super().finished(loop, generation, columns)
            if len(self.kept) == 2:
                shutil.rmtree(tmp_path / "run")
                if act == "replace":
                    run_tiny(tmp_path / "run", *MEMORISER, "cycle.generations=1")

    with pytest.raises(RunError, match="run: was removed or replaced while the run was under way"):
        run_tiny(tmp_path / "run", *MEMORISER, display=Removing())
    assert (tmp_path / "run").exists() == (act == "replace")
    if act == "replace":
        assert verify_run(tmp_path / "run").damages == []


def test_the_seal_of_a_generation_names_all_that_is_there_of_it(whole):
    """A file that no seal is of could be anything."""
    sealed = set()
    run = StoredRun(whole)
    for loop in loops(run.config):
        seal = run.seal(loop)
        sealed |= {str(layout.table_path(whole, loop.index, name)) for name in seal.tables}
        sealed |= {str(layout.samples_path(whole, loop.index, place)) for place in range(len(seal.samples))}
        for generation in (1, 2):
            sealed |= {
                str(layout.checkpoint_folder(whole, loop.index, generation) / name)
                for name in run.seal(loop).checkpoint
            }
        for generation in layout.model_generations(whole, loop.index):
            seal_path = layout.model_seal_path(whole, loop.index, generation)
            names = unseal_json(seal_path.read_bytes(), seal_path)["files"]
            folder = layout.model_folder(whole, loop.index, generation)
            sealed |= {str(seal_path), *(str(folder / name) for name in names)}
    kinds = ("tables", "samples", "checkpoints", "models")
    assert {str(path) for kind in kinds for path in (whole / kind).rglob("*") if path.is_file()} == sealed


class Killed(BaseException):
    """The end of a process that nobody has asked for."""


def written_until(count: int | None, monkeypatch) -> list[str]:
    """Let the run be killed at the file after so many; the names of those that are written."""
    names, write = [], files.write_whole

    def counted(path, content):
        if len(names) == count:
            raise Killed
        names.append(path.name)
        write(path, content)

    for module in (checkpoints, tables):
        monkeypatch.setattr(module, "write_whole", counted)
    return names


def test_generations_that_come_quickly_are_written_together(tmp_path, monkeypatch):
    """Catches a run of thousands of small generations that spends its time on writing the same table again and again,
    and one that is then not what it would have been.
    """
    settings = ("learner.name=resample", "grid={}", "cycle.generations=12")
    with monkeypatch.context() as patched:
        patched.setattr(folder, "_FLUSH_SECONDS", 0.0)
        patched.setattr(folder, "FLUSH_SHARE", math.inf)
        each = written_until(None, patched)
        run_tiny(tmp_path / "each", *settings)
    with monkeypatch.context() as patched:
        together = written_until(None, patched)
        run_tiny(tmp_path / "together", *settings)
    assert each.count("metrics.csv") == 13 and each.count("announced.json") == 0
    # The first generation does not wait, and all that follow take less than a second; at the end all are joined.
    assert together.count("metrics.csv") <= 4 and together.count("generation_011.json") == 1
    assert results(tmp_path / "each") == results(tmp_path / "together")
    assert verify_run(tmp_path / "together").damages == []


@pytest.mark.parametrize("cycle", [(), ("cycle.name=balanced", "cycle.fresh_share=0.5")])
def test_a_run_that_is_killed_while_it_writes_several_generations_goes_on(tmp_path, monkeypatch, cycle):
    """Catches rows of generations that no seal is of, which are taken for results, or for damage that stops the run."""
    settings = ("learner.name=resample", "grid={}", "cycle.generations=6", *cycle)
    run_tiny(tmp_path / "undisturbed", *settings)
    ends = set()
    for count in range(1, 60):
        path = tmp_path / f"run_{count}"
        with monkeypatch.context() as patched:
            names = written_until(count, patched)
            try:
                run_tiny(path, *settings)
            except Killed:
                ends.add(names[-1])
            else:
                break
        found = verify_run(path)
        assert found.damages == [], f"after {count} files"
        display = run_tiny(path, *settings)
        assert display.warnings == [], f"after {count} files"
        assert results(path) == results(tmp_path / "undisturbed"), f"after {count} files"
        assert verify_run(path).damages == []
        assert not layout.announcement_path(path, 0).exists()
    assert ends > {"announced.json", "metrics.csv", "provenance.csv", "state.npz", "generation_004.json"}


def test_samples_that_are_not_wanted_are_not_kept(tmp_path):
    """Catches a setting that does nothing, one that changes a result, and a reader who takes what was not kept for
    damage; also where a table is lost that is made again of the samples.
    """
    settings = ("learner.name=resample", "grid={}", "cycle.generations=6")
    run_tiny(tmp_path / "all", *settings)
    run_tiny(tmp_path / "some", *settings, "store.samples_every_generations=2")
    kept = [path.name for path in sorted((tmp_path / "some" / "samples" / "loop_000").iterdir())]
    assert kept == [f"generation_00{generation}.npz" for generation in (0, 2, 4, 5)]
    everything, some = (results(tmp_path / name) for name in ("all", "some"))
    assert {name: content for name, content in everything.items() if name in some} == some
    assert verify_run(tmp_path / "some").damages == []
    with pytest.raises(InputError, match=r"generation_003.npz: was not kept; store.samples_every_generations"):
        StoredRun(tmp_path / "some").samples(0, 3)
    layout.table_path(tmp_path / "some", 0, "top_samples").unlink()
    (warning,) = run_tiny(tmp_path / "some", *settings, "store.samples_every_generations=2").warnings
    assert "it is made again" in warning
    assert {row["generation"] for row in read(tmp_path / "some", "top_samples")} == {"0", "2", "4", "5"}
