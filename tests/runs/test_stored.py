"""What is read of a run folder is what the run wrote, or is refused."""

import os
import re
import shutil
import signal

import pytest
from tiny import QUICKLY, run_silently, tiny_config

from jaxloop.commands.corpus import RunModel
from jaxloop.commands.frequent_samples import most_frequent
from jaxloop.errors import InputError
from jaxloop.runs.integrity import verify_run
from jaxloop.runs.joining import join_runs
from jaxloop.runs.stored import StoredRun
from jaxloop.runs.stored_models import load_parameters


def test_two_values_of_an_axis_exchanged_in_the_config_are_noticed(copy):
    """Labels come from config.toml: exchanged, every cell would have another one's name."""
    path = copy / "config.toml"
    path.write_text(path.read_text().replace("    0.0,\n    0.5,", "    0.5,\n    0.0,"))
    for read in (lambda: join_runs([copy], print), lambda: load_parameters(copy, 0), lambda: StoredRun(copy)):
        with pytest.raises(InputError, match=r"config\.toml: is not what the run wrote"):
            read()


def test_another_runs_config_does_not_pass_for_this_one(copy, tmp_path):
    """A config that is sealed, and yet of another run: only the seals of the loops can know."""
    run_silently(tiny_config(*QUICKLY, "sample.temperature=0.9", "cycle.generations=1"), tmp_path / "other")
    shutil.copy(tmp_path / "other" / "config.toml", copy)
    with pytest.raises(InputError, match=r"loop_000/generation_002\.json: is of other settings than those of loop 0"):
        join_runs([copy], print)
    assert "other settings" in verify_run(copy).damages[0]


def test_a_missing_seal_is_told_by_everything_that_reads_the_newest_generation(copy):
    """Without it the generation before is the newest, and its model gave other log-probabilities, exit code 0."""
    said = "(the last that is finished is 1)"
    (copy / "seals/loop_000/generation_002.json").unlink()
    for read in (
        lambda told: most_frequent(copy, 0, None, 3, told.append),
        lambda told: join_runs([copy], told.append),
    ):
        told = []
        read(told)
        assert len(told) == 1 and said in told[0]
    told = []
    with pytest.raises(InputError, match="has no model of a generation that is finished"):
        RunModel(copy, 0, told.append)
    assert len(told) == 1 and said in told[0]


@pytest.mark.parametrize("place", ["config.toml", "tables/loop_000/metrics.csv", "seals/loop_000/generation_002.json"])
def test_a_pipe_is_not_waited_for(copy, place):
    """A pipe in place of a file would keep every command waiting for ever."""
    (copy / place).unlink()
    os.mkfifo(copy / place)
    signal.alarm(20)
    for read in (lambda: join_runs([copy], print), lambda: run_silently(tiny_config(*QUICKLY), copy)):
        with pytest.raises(InputError, match=f"{re.escape(place)}: is no regular file|neither a file nor a folder"):
            read()
    assert "is no regular file" in verify_run(copy).damages[0]
    signal.alarm(0)
