"""Which folders a run may use: nothing of anybody else's is touched."""

import re
import shutil
from pathlib import Path

import pytest
from tiny import MEMORISER, QUICKLY, contents, read, results, run_silently, run_tiny, tiny_config

from jaxloop import layout
from jaxloop.errors import InputError
from jaxloop.runs.folder import RunFolder
from jaxloop.runs.integrity import verify_run
from jaxloop.runs.stored import StoredRun


def test_opening_a_new_folder_twice_finds_the_same_run(tmp_path):
    """The config that is written must be the one that is read: an unset value, a float or a list that changes."""
    config = tiny_config(*MEMORISER)
    for _ in range(2):
        with RunFolder(tmp_path / "run", config, "test"):
            assert StoredRun(tmp_path / "run").config == config


def test_a_folder_of_other_settings_is_refused_with_the_difference(undisturbed, tmp_path):
    """Mixing two configs in one folder would put rows side by side that do not belong together."""
    shutil.copytree(undisturbed, tmp_path / "copy")
    with pytest.raises(InputError, match=r"sample\.temperature: 0\.75 -> 0\.8.*--overwrite"):
        run_tiny(tmp_path / "copy", "sample.temperature=0.8")
    assert results(tmp_path / "copy") == results(undisturbed)
    run_tiny(tmp_path / "copy", "sample.temperature=0.8", "cycle.generations=1", overwrite=True)
    assert len(read(tmp_path / "copy")) == 2


@pytest.mark.parametrize(("cycle", "learner"), [("balanced", "resample"), ("expanding", "transformer")])
def test_a_run_can_be_made_longer(tmp_path, cycle, learner):
    """What is finished would be computed again, or the longer run would differ from one that was long at once."""
    settings = [f"cycle.name={cycle}", f"learner.name={learner}"]
    run_tiny(tmp_path / "grown", *settings, "cycle.generations=2")
    assert run_tiny(tmp_path / "grown", *settings, "cycle.generations=4").kept == [(0, 2), (1, 2), (0, 3), (1, 3)]
    run_tiny(tmp_path / "long", *settings, "cycle.generations=4")
    assert results(tmp_path / "grown") == results(tmp_path / "long")
    for name in ("config.toml", "metrics.csv"):
        assert (tmp_path / "grown" / name).read_bytes() == (tmp_path / "long" / name).read_bytes()
    assert verify_run(tmp_path / "grown").damages == []
    with pytest.raises(InputError, match="was made with 4 generations, and a run can only be made longer"):
        run_tiny(tmp_path / "grown", *settings, "cycle.generations=3")


def test_a_longer_run_of_other_cells_is_refused(tmp_path):
    """With a change of its schedule after its end a loop is a control; made longer, it is none any more."""
    scheduled = ("learner.name=resample", "grid={}", "cycle.fresh_schedule=[[0, 1.0], [3, 0.5]]")
    run_tiny(tmp_path / "run", *scheduled, "cycle.generations=3")
    with pytest.raises(InputError, match=r"was made with other settings \(cycle\.generations: 3 -> 5\)"):
        run_tiny(tmp_path / "run", *scheduled, "cycle.generations=5")


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


def planted(path: Path, victim: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(victim)


@pytest.mark.parametrize(
    "place",
    [".lock_0", ".manifest.json.partial", "manifest.json", "figures/overview.png", "tables/loop_000/metrics.csv"],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_no_link_to_a_file_is_followed(copy, tmp_path, place, overwrite):
    """A folder from somebody else would empty, or write over, any file that its owner can write."""
    victim = tmp_path / "thesis.tex"
    victim.write_text("years of work")
    (copy / place).unlink(missing_ok=True)
    planted(copy / place, victim)
    with pytest.raises(InputError, match=f"{re.escape(place)}: is a link"):
        run_silently(tiny_config(*QUICKLY), copy, overwrite=overwrite)
    assert victim.read_text() == "years of work" and victim.parent.exists()


@pytest.mark.parametrize("kind", layout.KINDS)
def test_no_link_to_a_folder_is_followed(copy, tmp_path, kind):
    """`checkpoints` may lead to somebody's other run, which --overwrite would delete."""
    shutil.move(copy / kind, tmp_path / "elsewhere")
    before = contents(tmp_path / "elsewhere")
    (copy / kind).symlink_to(tmp_path / "elsewhere")
    for overwrite in (False, True):
        with pytest.raises(InputError, match=f"{kind}: is a link"):
            run_silently(tiny_config(*QUICKLY), copy, overwrite=overwrite)
    assert contents(tmp_path / "elsewhere") == before
