"""A run folder is one run's at a time."""

import errno
import fcntl
import os

import pytest
from tiny import MEMORISER, run_tiny, tiny_config

from jaxloop.errors import InputError
from jaxloop.runs.folder import RunFolder


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


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch):
    """Network file systems may have none: no run at all would be worse than one that takes care."""

    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    display = run_tiny(tmp_path / "run", *MEMORISER, "cycle.generations=1")
    assert len(display.kept) == 2 and len(display.warnings) == 1 and "has no locks" in display.warnings[0]
