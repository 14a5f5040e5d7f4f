"""What a run leaves in its folder, and what becomes of a folder that goes."""

import shutil

import pytest
from tiny import MEMORISER, Silent, run_tiny

from jaxloop import layout
from jaxloop.config.schema import loops
from jaxloop.errors import RunError
from jaxloop.files import unseal_json
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
