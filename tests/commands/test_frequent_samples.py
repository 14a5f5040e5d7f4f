import io
import re
from collections import Counter

import numpy as np
import pytest
from rich.console import Console
from tiny import run_silently, run_tiny, tiny_config

from jaxloop.commands.frequent_samples import Frequent, most_frequent, parse_generations
from jaxloop.commands.printing import show_frequent
from jaxloop.config.presets import load
from jaxloop.config.schema import loops
from jaxloop.errors import DamageError, InputError
from jaxloop.layout import samples_path
from jaxloop.runs.stored import StoredRun
from jaxloop.systems.logic.vocabulary import decode


@pytest.fixture(scope="module")
def memoriser(tmp_path_factory):
    """A run of a few generations that trains nothing."""
    path = tmp_path_factory.mktemp("runs") / "memoriser"
    run_tiny(path, "learner.name=resample", "cycle.generations=4", "seeds=[0,1]")
    return path


def shown(loop, found, width=None) -> str:
    out = io.StringIO()
    show_frequent(loop, found, Console(file=out, width=width or 80, force_terminal=width is not None))
    return out.getvalue()


def test_counts_are_those_of_the_samples(memoriser):
    """A count that is not of that generation, or of another loop; the default leaving out the last generation."""
    loop, found = most_frequent(memoriser, 1, None, 3, pytest.fail)
    assert loop.seed == 1 and [one.generation for one in found] == [0, 1, 3]
    for one in found:
        with np.load(samples_path(memoriser, 1, one.generation)) as arrays:
            counts = Counter(map(decode, arrays["tokens"]))
        assert (one.samples, one.different) == (60, len(counts))
        assert [count for _, count, _ in one.top] == [count for _, count in counts.most_common(3)]
        assert all(counts[text] == count and verdict == "true" for text, count, verdict in one.top)
    assert (
        len(most_frequent(memoriser, 0, [2], 10**6, pytest.fail)[1][0].top)
        == most_frequent(memoriser, 0, [2], 1, pytest.fail)[1][0].different
    )


def test_a_pipe_gets_each_sample_on_a_line_and_a_terminal_no_line_beyond_its_width():
    """Folded lines that no tool can read; cut numbers, or columns beyond the edge of a narrow terminal."""
    loop = loops(tiny_config())[0]
    long = " ".join(["(", *["not", "("] * 60])
    found = [Frequent(g, 10_000, 2, [("( not False )", 9_000, "true"), (long, 1_000, "invalid")]) for g in range(4)]
    lines = shown(loop, found).splitlines()
    assert "9,000 of 10,000 the same" in lines[3] and lines[3].count("9,000") == 4
    assert lines[5].count("( not False )") == 4 and lines[6].count("1,000 invalid ( not ( not") == 4 and len(lines) == 7
    assert lines[6].count(" ...") == 4
    for width in (20, 50, 80, 200):
        text = re.sub("\x1b\\[[0-9;]*m", "", shown(loop, found, width))
        assert max(map(len, text.splitlines()[1:])) <= width or width < 25
        assert len(re.findall("9,000 true ", text)) == len(re.findall("1,000 invalid ", text)) == 4


def test_what_is_not_there_is_said_and_damage_is_named(memoriser, tmp_path):
    """A traceback, or counts of samples that the run did not write."""
    with pytest.raises(InputError, match="generations 0 to 3, and no generation 9"):
        most_frequent(memoriser, 0, [0, 9], 3, pytest.fail)
    with pytest.raises(InputError, match="no loop 9"):
        most_frequent(memoriser, 9, None, 3, pytest.fail)
    for text in ("", "a", "1,", "-1", "1;2", "9" * 20):
        with pytest.raises(InputError, match="is no list of generations"):
            parse_generations(text)
    assert parse_generations("0, 4,8") == [0, 4, 8]
    path = samples_path(memoriser, 1, 2)
    content = path.read_bytes()
    path.write_bytes(content[:-40] + b"0" + content[-39:])
    with pytest.raises(DamageError, match=r"generation_002\.npz"):
        most_frequent(memoriser, 1, [2], 3, pytest.fail)
    path.write_bytes(content)
    assert StoredRun(memoriser).samples(1, 2)


def test_numbers_are_shown_without_a_verdict_and_of_those_that_are_kept(tmp_path):
    """The command asked for generations that a preset does not keep, and for a judge that there is none of."""
    size = ["seeds=[0]", "cycle.rows=20", "cycle.generations=6"]
    run_silently(load("gaussian", [*size, "store.samples_every_generations=2"]), tmp_path / "run")
    loop, found = most_frequent(tmp_path / "run", 0, None, 3, pytest.fail)
    assert [one.generation for one in found] == [0, 2, 5]
    assert all((one.samples, one.different, len(one.top)) == (20, 20, 3) for one in found)
    assert all(float(text) < 10 and (count, verdict) == (1, "") for text, count, verdict in found[0].top)
    assert "20 different" in shown(loop, found)
