"""What is read of a run folder is what the run wrote, or is refused."""

import io
import json
import os
import re
import shutil
import signal

import numpy as np
import pytest
from tiny import QUICKLY, edit, run_silently, tiny_config

from jaxloop.commands.corpus import RunModel, check_lines
from jaxloop.commands.frequent_samples import most_frequent
from jaxloop.errors import InputError
from jaxloop.learners.transformer.score import log_prob
from jaxloop.runs.integrity import verify_run
from jaxloop.runs.joining import join_runs
from jaxloop.runs.stored import StoredRun, load_parameters
from jaxloop.systems.logic.vocabulary import EOS, VOCABULARY, decode


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
    (copy / "seals/loop_000/generation_002.json").unlink()
    for read in (
        lambda told: RunModel(copy, 0, told.append),
        lambda told: most_frequent(copy, 0, None, 3, told.append),
        lambda told: join_runs([copy], told.append),
    ):
        told = []
        read(told)
        assert len(told) == 1 and "(the last that is finished is 1)" in told[0]


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
