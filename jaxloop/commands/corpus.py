"""The commands that read or show text: check, diversity, language."""

import codecs
import contextlib
import itertools
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TextIO

import numpy as np

from jaxloop.config.schema import Config
from jaxloop.errors import InputError
from jaxloop.learners.transformer.score import log_prob
from jaxloop.loop.keys import Purpose, host_generator
from jaxloop.runs.stored import StoredRun
from jaxloop.runs.stored_models import load_parameters, newer_without_model, newest_model
from jaxloop.systems.logic.judge import FAULTS, INVALID, VERDICTS
from jaxloop.systems.logic.language import language_of
from jaxloop.systems.logic.measures import corpus_diversity, verdicts
from jaxloop.systems.logic.settings import LogicConfig
from jaxloop.systems.logic.vocabulary import VOCABULARY, decode, encode, rows_from_ids, split_words

_BATCH_LINES = 8192
_REASONS = {
    "syntax": "breaks the grammar",
    "unfinished": "ends before the expression is complete",
    "empty": "empty line",
}


@contextlib.contextmanager
def open_lines(file: str) -> Iterator[Iterator[bytes]]:
    """Open a file, or standard input for `-`, as lines of bytes, without the mark that some editors write first.

    Raises:
      InputError: it cannot be read.
    """
    if file == "-":
        if sys.stdin is None:
            raise InputError("standard input is closed; name a file")
        yield _without_mark(sys.stdin.buffer, "standard input")
        return
    with contextlib.ExitStack() as stack:
        try:
            lines = stack.enter_context(Path(file).open("rb"))
            lines.peek()
        except (OSError, ValueError) as error:
            raise InputError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
        yield _without_mark(lines, file)


def _without_mark(lines: Iterable[bytes], name: str) -> Iterator[bytes]:
    """Lines of UTF-8 without a byte-order mark, which is no part of the first one.

    Raises:
      InputError: the mark is that of another encoding.
    """
    lines = iter(lines)
    first = next(lines, b"")
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InputError(f"{name}: is text in UTF-16; save it in UTF-8")
    if first := first.removeprefix(codecs.BOM_UTF8):
        yield first
    yield from lines


class RunModel:
    """A trained model of a run, for the probability of texts."""

    def __init__(self, run: Path, loop: int, warn: Callable[[str], None], generation: int | None = None):
        """Load a model of a loop.

        Args:
          run: the run folder.
          loop: its number.
          warn: is told of newer generations that are not finished, or have no model.
          generation: which of those that have a model; by default the newest.

        Raises:
          InputError: there is no such run, loop or model.
        """
        stored = StoredRun(run)
        self.config = _logic(stored.loop(loop).config, "check judges expressions of")
        if generation is None:
            generation = newest_model(stored, stored.loop(loop))
            for line in (*stored.left_out(stored.loop(loop)), *newer_without_model(stored, stored.loop(loop))):
                warn(line)
        self._parameters = load_parameters(run, loop, generation)

    def describe(self, texts: list[str]) -> list[dict]:
        """What is added to the findings of each text; null where the model cannot have written it."""
        width, rows = self.config.model.context_tokens, {}
        for place, text in enumerate(texts):
            with contextlib.suppress(ValueError):
                ids = encode(text)
                if len(ids) < width:
                    rows[place] = ids
        # As many rows as the next power of two, so that few shapes are compiled.
        padding = [[]] * ((1 << max(len(rows) - 1, 0).bit_length()) - len(rows))
        tokens_NxT = rows_from_ids([*rows.values(), *padding], width)
        model, temperature = self.config.model, self.config.sample.temperature
        nats_2xN = log_prob(model, VOCABULARY, self._parameters, tokens_NxT, temperature)
        found = dict(zip(rows, nats_2xN.T.tolist(), strict=False))
        names = "model_log_prob", "model_log_prob_tempered"
        return [dict(zip(names, found.get(place, (None, None)), strict=True)) for place in range(len(texts))]


def _logic(config: Config, what: str) -> LogicConfig:
    """The config, where its system is the logic language.

    Raises:
      InputError: it is another; says what the language is wanted for.
    """
    if not isinstance(config, LogicConfig):
        raise InputError(f"system.name: {what} the system 'logic', and this is {config.system.name!r}")
    return config


def check_lines(lines: Iterable[bytes], config: Config, out: TextIO, model: RunModel | None = None) -> None:
    """Judge every line and write one JSON object for each; with what a model says of it, if there is one."""
    language = language_of(_logic(config, "check judges expressions of").language)
    lines = iter(lines)
    # Someone who types wants each answer at once.
    batch_lines = 1 if sys.stdin is not None and sys.stdin.isatty() else _BATCH_LINES
    while batch := list(itertools.islice(lines, batch_lines)):
        texts = [line.rstrip(b"\r\n").decode("utf-8", "replace") for line in batch]
        added = model.describe(texts) if model else [{}] * len(texts)
        for found, more in zip(judge_texts(texts, language), added, strict=True):
            out.write(json.dumps(found | more) + "\n")
        out.flush()


def judge_texts(texts: list[str], language) -> list[dict]:
    """What `jaxloop check` says of each text."""
    found: list[dict] = [{}] * len(texts)
    by_width: dict[int, list[tuple[int, list[int]]]] = {}
    for place, text in enumerate(texts):
        try:
            ids = encode(text)
        except ValueError as error:
            found[place] = _finding(text, "invalid", str(error), None, len(split_words(text)), None)
        else:
            # Powers of two, so that few shapes are compiled; always room for `<eos>`.
            by_width.setdefault(max(32, 1 << len(ids).bit_length()), []).append((place, ids))
    for width, lines in by_width.items():
        rows_at_once = max(1, 2**22 // width)
        for first in range(0, len(lines), rows_at_once):
            group = lines[first : first + rows_at_once]
            # As many rows as the next power of two, for the same reason.
            padded = 1 << (len(group) - 1).bit_length()
            tokens_NxT = rows_from_ids([ids for _, ids in group] + [[]] * (padded - len(group)), width)
            judgement = verdicts(tokens_NxT)
            log_prob_N = language.log_prob(tokens_NxT, judgement.verdict_N)
            for row, (place, ids) in enumerate(group):
                valid = judgement.verdict_N[row] != INVALID
                reason = None if valid else _REASONS[FAULTS[judgement.fault_N[row]]]
                depth = int(judgement.depth_N[row]) if valid else None
                log_prob = float(log_prob_N[row]) if math.isfinite(log_prob_N[row]) else None
                verdict = VERDICTS[judgement.verdict_N[row]]
                found[place] = _finding(texts[place], verdict, reason, depth, len(ids), log_prob)
    return found


def _finding(text, verdict, reason, depth, tokens, log_prob) -> dict:
    return {
        "text": text, "verdict": verdict, "reason": reason, "depth": depth, "tokens": tokens, "log_prob": log_prob,
    }  # fmt: skip


def describe_diversity(lines: Iterable[bytes], out: TextIO) -> None:
    """Write diversity and unique share of a corpus as one JSON object."""
    corpus = [line.split() for line in lines]
    if len(corpus) < 2:
        raise InputError(f"diversity needs at least two lines, and there {'is' if corpus else 'are'} {len(corpus)}")
    diversity, unique_share = corpus_diversity(corpus)
    out.write(json.dumps({"lines": len(corpus), "diversity": diversity, "unique_share": unique_share}) + "\n")


def describe_language(config: Config, seed: int, out: TextIO) -> None:
    """Write what is known of a language, exactly where it can be, and ten draws."""
    language = language_of(_logic(config, "language describes").language)
    rows = 10_000
    tokens_NxT = language.draw(host_generator(seed, Purpose.REAL_ROWS), rows)
    length_N, depth_N = VOCABULARY.lengths(tokens_NxT), verdicts(tokens_NxT).depth_N
    facts = [
        (
            "depths",
            f"{language.min_depth} to {language.max_depth}, {'true only' if language.only_true else 'true and false'}",
        ),
        ("expressions", f"{language.expression_count_text}, half of them true"),
        ("probability of true", f"{language.true_probability:g}"),
        ("entropy", f"{language.entropy_nats:.4f} nats per expression"),
        ("longest", f"{language.longest_tokens} tokens"),
        (
            f"length of {rows:,} draws",
            f"mean {length_N.mean():.2f}, 95th percentile {np.percentile(length_N, 95):.0f} tokens",
        ),
        (
            f"depth of {rows:,} draws",
            "  ".join(f"{depth}: {np.mean(depth_N == depth):.3f}" for depth in np.unique(depth_N)),
        ),
    ]
    for name, fact in facts:
        out.write(f"{name:24s} {fact}\n")
    out.write("\nten draws\n")
    for row_T in tokens_NxT[:10]:
        out.write(f"  {decode(row_T)}\n")
