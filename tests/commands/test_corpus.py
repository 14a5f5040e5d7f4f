"""The commands that read or show text: as functions, and end to end through a process of their own."""

import errno
import io
import json
import math
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from jaxloop.commands import corpus
from jaxloop.commands.corpus import check_lines, describe_diversity, describe_language, judge_texts, open_lines
from jaxloop.config.presets import load
from jaxloop.errors import InputError, RunError
from jaxloop.systems.logic.judge import judge_jitted
from jaxloop.systems.logic.language import Language
from jaxloop.systems.logic.vocabulary import decode, encode, rows_from_ids

KEYS = ["text", "verdict", "reason", "depth", "tokens", "log_prob"]
SYNTAX, UNFINISHED, EMPTY = "breaks the grammar", "ends before the expression is complete", "empty line"


@pytest.fixture
def preset(tmp_path_factory):
    """A file of settings with the language of depths 1 to 3."""
    path = tmp_path_factory.mktemp("settings") / "three.toml"
    path.write_text("[language]\nmin_depth = 1\nmax_depth = 3\nonly_true = true\n")
    return str(path)


def checked(data, preset, *overrides):
    """What check_lines writes of these bytes, parsed."""
    out = io.StringIO()
    check_lines(io.BytesIO(data), load(preset, list(overrides)), out)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def measured(data):
    out = io.StringIO()
    describe_diversity(io.BytesIO(data), out)
    return json.loads(out.getvalue())


def run_jaxloop(*arguments, given=b"", folder):
    """(exit code, standard output, standard error) of the command, whichever copy of the package is being tested."""
    command = [sys.executable, "-c", "from jaxloop.commands.cli import main; main()", *arguments]
    done = subprocess.run(command, input=given, capture_output=True, cwd=folder, timeout=120)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


VALID = [  # text, verdict, depth, tokens, probability
    ("( True and ( not False ) )", "true", 2, 8, 2 / 375),
    ("( not False )", "true", 1, 4, 2 / 15),
    ("( True or False )", "true", 1, 5, 2 / 75),
    ("(\tTrue   or False )  ", "true", 1, 5, 2 / 75),
    ("( True and False )", "false", 1, 5, None),
    ("True", "true", 0, 1, None),
    ("False", "false", 0, 1, None),
    ("( not ( not ( not ( not True ) ) ) )", "true", 4, 13, None),
    ("( not ( not ( not ( not False ) ) ) )", "false", 4, 13, None),
]
INVALID = [  # text, tokens, reason
    ("True and False", 3, SYNTAX),
    ("( True )", 3, SYNTAX),
    ("( True and True and True )", 7, SYNTAX),
    ("( True and True ) )", 6, SYNTAX),
    ("( not True", 3, UNFINISHED),
    ("(", 1, UNFINISHED),
    ("", 0, EMPTY),
    ("   \t", 0, EMPTY),
    ("( True and Maybe )", 5, "unknown word 'Maybe' at token 4"),
    ("( True and True ) <eos>", 6, "unknown word '<eos>' at token 6"),
    ("(True and True)", 3, "unknown word '(True' at token 1"),
    ("( true and True )", 5, "unknown word 'true' at token 2"),
    ("import os", 2, "unknown word 'import' at token 1"),
    ("__import__('os')", 1, "unknown word \"__import__('os')\" at token 1"),
    ("True if True else False", 5, "unknown word 'if' at token 2"),
    ("( True and True ) # a comment", 8, "unknown word '#' at token 6"),
    ("1", 1, "unknown word '1' at token 1"),
]


@pytest.mark.parametrize(("text", "verdict", "depth", "tokens", "probability"), VALID)
def test_valid_text(text, verdict, depth, tokens, probability):
    """Catches a wrong or missing fact, and a verdict withheld because the source never draws the expression."""
    (found,) = judge_texts([text], Language(1, 3))
    log_prob = found.pop("log_prob")
    assert found == {"text": text, "verdict": verdict, "reason": None, "depth": depth, "tokens": tokens}
    assert log_prob == (None if probability is None else pytest.approx(math.log(probability), abs=1e-12))


@pytest.mark.parametrize(("text", "tokens", "reason"), INVALID)
def test_invalid_text(text, tokens, reason):
    """Catches text that is accepted, or even evaluated, because Python would; and a reason of the wrong kind."""
    (found,) = judge_texts([text], Language(1, 3))
    assert found.pop("reason").startswith(reason)
    assert found == {"text": text, "verdict": "invalid", "depth": None, "tokens": tokens, "log_prob": None}


@pytest.mark.parametrize("text", ["( True\xa0and True )", "True\x1cFalse", "\u3000 True", "True\x85"])
def test_tokens_are_counted_as_they_are_read(text):
    """Catches a count that splits at Unicode's spaces where the reason's token numbers do not."""
    (found,) = judge_texts([text], Language(1, 3))
    assert found["verdict"] == "invalid"
    assert found["tokens"] == len(text.encode().split())


def test_keys_of_a_finding():
    """Catches a key that is renamed, added, or left out of some kind of finding: scripts read these lines."""
    texts = [text for text, *_ in VALID + INVALID]
    assert [list(found) for found in judge_texts(texts, Language(1, 3))] == [KEYS] * len(texts)
    assert judge_texts([], Language(1, 3)) == []


def test_every_line_keeps_its_place(preset, monkeypatch):
    """Catches findings that change places between batches, widths and lines that could not be read."""
    monkeypatch.setattr(corpus, "_BATCH_LINES", 16)
    rows = Language(0, 4, False).draw(np.random.default_rng(0), 100, 64)
    texts = [decode(row) for row in rows]
    texts[::7] = [f"word {place}" for place in range(len(texts[::7]))]
    texts[3::7] = [text.rpartition(" ")[0] for text in texts[3::7]]
    found = checked("\n".join(texts).encode(), preset)
    assert [finding["text"] for finding in found] == texts
    ids = [[] if text.startswith("word") else encode(text) for text in texts]
    rows = rows_from_ids(ids, 64)
    verdicts = np.asarray(judge_jitted(rows).verdict_N)
    assert [finding["verdict"] for finding in found] == [("invalid", "false", "true")[verdict] for verdict in verdicts]
    log_prob = Language(1, 3).log_prob(rows)
    assert [finding["log_prob"] for finding in found] == [value if value > -math.inf else None for value in log_prob]
    assert np.isfinite(log_prob).sum() > 5


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_line_ends(end, preset):
    """Catches a carriage return that becomes part of the text, a lost last or empty line, and one line too many."""
    texts = ["( not False )", "", "( True and False )", "True"]
    data = end.join(text.encode() for text in texts)
    for ending in (b"", end):
        found = checked(data + ending, preset)
        assert [finding["text"] for finding in found] == texts
        assert [finding["verdict"] for finding in found] == ["true", "invalid", "false", "true"]
    assert checked(data + end + end, preset)[-1]["reason"] == EMPTY
    assert checked(b"", preset) == []


def test_any_bytes_are_a_line(preset):
    """Catches bytes that stop the command, or a line that breaks the output in two."""
    garbage = [b"\xff\xfe\x00", bytes(range(128, 256)), b"True\xff", b"\xef\xbb\xbfTrue", b"\0", "True\u2028".encode()]
    garbage.append(bytes(set(range(256)) - {10, 13}))
    found = checked(b"\n".join([*garbage, b"True"]), preset)
    assert [finding["verdict"] for finding in found] == ["invalid"] * len(garbage) + ["true"]
    assert all(finding["reason"].startswith("unknown word") for finding in found[:-1])
    assert all(len(finding["reason"]) < 300 for finding in found[:-1])


def test_overrides_choose_the_language(preset):
    """Catches a log_prob of another language than the one asked for."""
    line = b"( not ( not ( not ( not True ) ) ) )"
    expected = Language(1, 5).log_prob(rows_from_ids([encode(line.decode())], 32))[0]
    assert checked(line, preset)[0]["log_prob"] is None
    assert checked(line, preset, "language.max_depth=5")[0]["log_prob"] == expected
    (false,) = checked(b"( True and False )", preset, "language.only_true=false")
    assert false["log_prob"] == pytest.approx(math.log(1 / 75), abs=1e-12)
    assert checked(b"True", preset, "language.min_depth=0")[0]["log_prob"] == pytest.approx(math.log(2 / 5), abs=1e-12)


def test_very_long_and_very_deep_lines():
    """Catches recursion (Python's ends at 1,000) and time or memory that grows with the square of the length."""
    deep = 50_000
    begun = time.monotonic()
    found = judge_texts(
        [
            "( " * 200_000,
            "( not " * deep + "True" + " )" * deep,
            "( not " * (deep + 1) + "True" + " )" * (deep + 1),
            "( True and " * deep + "False" + " )" * deep,
            "( " * deep + "False" + " or True )" * deep,
            "( not " * deep + "True" + " )" * (deep - 1),
            "( not " * deep + "True" + " )" * (deep + 1),
            "( not )" * 1000,
        ],
        Language(1, 3),
    )
    assert time.monotonic() - begun < 30
    assert [(finding["verdict"], finding["reason"], finding["depth"], finding["tokens"]) for finding in found[:-1]] == [
        ("invalid", UNFINISHED, None, 200_000),
        ("true", None, deep, 3 * deep + 1),
        ("false", None, deep + 1, 3 * deep + 4),
        ("false", None, deep, 4 * deep + 1),
        ("true", None, deep, 4 * deep + 1),
        ("invalid", UNFINISHED, None, 3 * deep),
        ("invalid", SYNTAX, None, 3 * deep + 2),
    ]
    assert all(finding["log_prob"] is None for finding in found)
    assert "unknown word ')('" in found[-1]["reason"]


def levenshtein(left, right):
    previous = list(range(len(right) + 1))
    for place, a in enumerate(left, start=1):
        current = [place]
        for other, b in enumerate(right, start=1):
            current.append(min(previous[other] + 1, current[-1] + 1, previous[other - 1] + (a != b)))
        previous = current
    return previous[-1]


def test_diversity_against_plain_python():
    """Catches characters compared in place of words, pairs counted twice, and copies left out of the mean."""
    rng = np.random.default_rng(1)
    words = [b"True", b"Tree", b"\xff", "\u00e9t\u00e9".encode(), b"a"]
    lines = [[words[word] for word in rng.integers(0, 5, length)] for length in rng.integers(0, 6, 40)]
    pairs = [(left, right) for place, left in enumerate(lines) for right in lines[:place]]
    expected = sum(levenshtein(left, right) / max(len(left), len(right), 1) for left, right in pairs) / len(pairs)
    found = measured(b"\n".join(b" ".join(line) for line in lines) + b"\n")
    assert list(found) == ["lines", "diversity", "unique_share"]
    assert found["lines"] == 40
    assert found["diversity"] == pytest.approx(expected, abs=1e-12)
    assert found["unique_share"] == len(set(map(tuple, lines))) / 40


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"a b\na b\na c\n", (3, 1 / 3, 2 / 3)),
        (b"a b\r\na \t b", (2, 0.0, 0.5)),
        (b"\n\n", (2, 0.0, 0.5)),
        (b"\nabc", (2, 1.0, 1.0)),
        (b"\xff\xfe\x00 \x80\n\x00", (2, 1.0, 1.0)),
    ],
)
def test_diversity_of_small_corpora(data, expected):
    """Catches division by a length of 0, lines lost at either end, and bytes that must be text."""
    assert tuple(measured(data).values()) == pytest.approx(expected, abs=1e-12)


def test_diversity_of_many_different_words():
    """Catches two words that become the same symbol, or one that no symbol is left for, in a corpus of many words."""
    words = [b"%d" % number for number in range(70_000)]
    # The word number 70,000 stands where the word would that is the same in its last 16 bits.
    changed = [*words[: 70_000 - 2**16], b"other", *words[70_001 - 2**16 :]]
    found = measured(b" ".join(words) + b"\n" + b" ".join(changed))
    assert found["diversity"] == pytest.approx(1 / 70_000, rel=1e-12)


@pytest.mark.parametrize(("data", "message"), [(b"", "there are 0"), (b"one line\n", "there is 1")])
def test_diversity_needs_two_lines(data, message):
    """Catches not a number, which is no JSON, for a corpus without pairs."""
    with pytest.raises(InputError, match=message):
        measured(data)


def test_input_that_cannot_be_read(tmp_path):
    """Catches a traceback for a missing file or a folder."""
    with pytest.raises(InputError, match="no_such"), open_lines(str(tmp_path / "no_such")):
        pass
    with pytest.raises(InputError, match="cannot be read"), open_lines(str(tmp_path)):
        pass


@pytest.mark.parametrize("from_stdin", [True, False])
def test_a_byte_order_mark_is_no_part_of_the_first_line(preset, tmp_path, monkeypatch, from_stdin):
    """Catches the first line of a file from Windows judged invalid, or taken for another word by the diversity."""

    def opened(data):
        path = tmp_path / "x.txt"
        path.write_bytes(data)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        return open_lines("-" if from_stdin else str(path))

    mark = "\ufeff".encode()
    out = io.StringIO()
    with opened(mark + b"( not False )\n( not False )") as lines:
        check_lines(lines, load(preset), out)
    first, second = map(json.loads, out.getvalue().splitlines())
    assert first == second and first["verdict"] == "true"
    with opened(mark + b"True\nTrue\n" + mark + b"True") as lines:
        assert list(lines) == [b"True\n", b"True\n", mark + b"True"]
    for data, expected in ((mark, []), (b"", []), (mark + b"\n", [b"\n"])):
        with opened(data) as lines:
            assert list(lines) == expected
    with opened("True\n".encode("utf-16")) as lines, pytest.raises(InputError, match="UTF-16; save it in UTF-8"):
        list(lines)


def test_closed_standard_input(monkeypatch):
    """Catches an AttributeError where there is no standard input, as after `<&-`."""
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(InputError), open_lines("-"):
        pass


def test_output_that_cannot_be_written_is_not_blamed_on_the_input(tmp_path):
    """Catches `x.txt: cannot be read: No space left on device` where it was the output that could not be written."""
    path = tmp_path / "x.txt"
    path.write_text("True\n")
    with pytest.raises((OSError, RunError)), open_lines(str(path)):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def described(preset, seed, *overrides):
    out = io.StringIO()
    describe_language(load(preset, overrides), seed, out)
    facts, draws = out.getvalue().split("\nten draws\n")
    return {line[:24].strip(): line[25:] for line in facts.splitlines()}, draws.splitlines()


def mean_length(min_depth, max_depth, depth=0):
    """Exact mean length in tokens; the same among the true ones, as swapping and/or and True/False shows."""
    if depth >= max_depth:
        return 1
    below = mean_length(min_depth, max_depth, depth + 1)
    operators = (3 + below) + 2 * (3 + 2 * below)
    return operators / 3 if depth < min_depth else (operators + 2) / 5


def test_facts_of_a_language(preset):
    """Catches a fact of another language, and draws that do not come from the one described."""
    facts, draws = described(preset, 0)
    language = Language(1, 3)
    assert facts["depths"] == "1 to 3, true only"
    assert facts["expressions"] == "182,710, half of them true"
    assert facts["probability of true"] == "0.5"
    assert float(facts["entropy"].split()[0]) == pytest.approx(language.entropy_nats, abs=1e-4)
    assert facts["longest"] == "29 tokens"
    mean = float(facts["length of 10,000 draws"].split()[1].rstrip(","))
    assert mean == pytest.approx(mean_length(1, 3), abs=0.3)
    shares = facts["depth of 10,000 draws"].replace(":", "").split()
    assert shares[::2] == ["1", "2", "3"]
    assert sum(map(float, shares[1::2])) == pytest.approx(1, abs=0.002)
    # `not` of a leaf, or `and`/`or` of two: the same share among the true ones.
    assert float(shares[1]) == pytest.approx((2 / 5 + 2 * 4 / 25) / 3, abs=0.025)
    assert len(draws) == 10
    assert np.isfinite(language.log_prob(rows_from_ids(map(encode, draws), 30))).all()


def test_draws_shown_follow_from_the_seed(preset):
    """Catches a seed that is ignored, and draws that differ from call to call."""
    assert described(preset, 1) == described(preset, 1)
    assert described(preset, 1)[1] != described(preset, 2)[1]


def test_language_of_false_and_true(preset):
    """Catches settings of the language that do not reach the description."""
    facts, draws = described(preset, 0, "language.only_true=false", "language.min_depth=3")
    assert facts["depths"] == "3 to 3, true and false"
    assert facts["depth of 10,000 draws"] == "3: 1.000"
    assert float(facts["entropy"].split()[0]) == pytest.approx(Language(3, 3, False).entropy_nats, abs=1e-4)
    assert set(np.asarray(judge_jitted(rows_from_ids(map(encode, draws), 30)).verdict_N).tolist()) == {1, 2}


def test_check_end_to_end(preset, tmp_path):
    """Catches a command that differs from its function, stops at garbage, or runs what it reads."""
    lines = [b"( not False )", b"__import__('os').system('touch ran')", b"\xff\x00\xfe", b"", b"( True and", b"True"]
    code, out, err = run_jaxloop("check", "-", "--preset", preset, given=b"\r\n".join(lines), folder=tmp_path)
    assert (code, err) == (0, "")
    found = [json.loads(line) for line in out.splitlines()]
    assert found == checked(b"\n".join(lines), preset)
    assert [finding["verdict"] for finding in found] == ["true", *["invalid"] * 4, "true"]
    assert list(tmp_path.iterdir()) == []


def test_language_end_to_end(preset, tmp_path):
    """Catches a command that differs from its function."""
    code, out, err = run_jaxloop("language", preset, "--seed", "1", folder=tmp_path)
    assert (code, err) == (0, "")
    assert out.splitlines()[-10:] == described(preset, 1)[1]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["check", "no_such.txt"], "no_such.txt"),
        (["diversity", "empty.txt"], "two lines"),
        (["language", "quick", "language.max_dept=3"], "did you mean 'language.max_depth'"),
    ],
)
def test_bad_input_is_one_line_and_code_2(arguments, named, tmp_path):
    """Catches a traceback, an exit code that scripts take for a failed run, and output before the error."""
    (tmp_path / "empty.txt").touch()
    code, out, err = run_jaxloop(*arguments, folder=tmp_path)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith("jaxloop: ")
    assert named in err
    assert "Traceback" not in err


def test_a_system_without_a_language_is_named(tmp_path):
    """It ended in an attribute that is not there."""
    config = load("gaussian")
    with pytest.raises(InputError, match="check judges expressions of the system 'logic', and this is 'gaussian'"):
        check_lines([b"True"], config, io.StringIO())
    with pytest.raises(InputError, match="language describes the system 'logic', and this is 'gaussian'"):
        describe_language(config, 0, io.StringIO())
