"""Paths that are asked for, and names that are printed: as strangers bring them."""

import inspect
import os
import signal
import subprocess
from pathlib import Path

import pytest
from processes import JAXLOOP, call
from tiny import run_tiny

from jaxloop.commands import cli
from jaxloop.errors import InputError


def path_parameters():
    """(command, parameter, what typer knows of it) for everything that names a file or a folder."""
    for command in cli.app.registered_commands:
        for parameter in inspect.signature(command.callback).parameters.values():
            annotation = parameter.annotation
            known = getattr(annotation, "__metadata__", [None])[0]
            words = str(getattr(known, "metavar", None))
            if "pathlib" in str(annotation.__origin__ if known else annotation) or any(
                word in words for word in ("DIR", "FILE", "PATH")
            ):
                yield command.callback.__name__, parameter.name, known


def test_every_path_comes_through_one_door():
    """`--out gs://bucket/run` made a folder `gs:` here, and `--out=~/x` one of the name `~`: and so does any parameter
    that is added without the parser.
    """
    found = list(path_parameters())
    assert {("run", "out"), ("check", "run_folder"), ("summary", "output"), ("bench", "nanogpt")} <= {
        (command, name) for command, name, _ in found
    }
    assert {(command, name): known.parser for command, name, known in found} == {
        (command, name): cli._local_path if "pathlib" in str(annotation_of(command, name)) else cli._local
        for command, name, _ in found
    }


def annotation_of(command: str, name: str):
    return inspect.signature(getattr(cli, command)).parameters[name].annotation.__origin__


@pytest.mark.parametrize("path", ["gs://bucket/run", "s3://b", "file:///tmp/x", "gs:/bucket", "git+ssh://host/x"])
def test_a_url_is_refused(path):
    """Hours of results on the disk of a machine that is gone tomorrow, where a bucket was meant."""
    with pytest.raises(InputError, match=r"is a URL.*mount"):
        cli._local_path(path)


def test_home_folders_and_other_paths(monkeypatch):
    """A `~` that the shell leaves alone after `=`; a preset's, a Windows drive's or a usual path changed by it."""
    monkeypatch.setenv("HOME", "/home/ada")
    assert cli._local_path("~/runs/x") == Path("/home/ada/runs/x") and cli._local("~") == "/home/ada"
    for path in ("quick", "./quick", "C:/x", "a:b/c", "runs/~x", "-", "/tmp/x:/y"):
        assert cli._local(path) == path
    for path, said in (("~nobody_at_all/x", "no.* home folder"), ("", "empty")):
        with pytest.raises(InputError, match=said):
            cli._local(path)


def test_paths_from_the_command_line(tmp_path):
    """A door that stands beside the way: the parser must be what the command line uses, for lists of paths, too."""
    for arguments in (["run", "quick", "--out=gs://bucket/run"], ["summary", ".", "s3://bucket/run"]):
        result = call(*arguments, cwd=tmp_path)
        assert result.returncode == 2 and "is a URL" in result.stderr and result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_answer_in_an_encoding_without_the_folders_name(tmp_path):
    """An answer that is lost to a UnicodeEncodeError, and control characters of a name that reach the terminal."""
    name = "ünï😀\x1b[31m" + os.fsdecode(b"\xff")
    run_tiny(tmp_path / name, "learner.name=resample", "cycle.generations=1")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:strict"}
    done = subprocess.run(
        [*JAXLOOP, "verify", name], cwd=tmp_path, env=environment, capture_output=True, timeout=300, check=False
    )
    assert done.returncode == 0 and done.stderr == b""
    assert done.stdout == rb"\xfcn\xef\U0001f600\x1b[31m\udcff: whole; 2 finished generations of 2 loops" + b"\n"


def test_ctrl_c_promises_nothing_where_nothing_is_kept():
    """`check` told people that what was finished is kept, and that the same command goes on from there."""
    process = subprocess.Popen(
        [*JAXLOOP, "check", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdin.write(b"True\n" * 8192)
    process.stdin.flush()
    process.stdout.readline()  # it is under way
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130 and errors == b"jaxloop: stopped\n"
