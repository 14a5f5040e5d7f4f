"""Measures of rows of tokens: correctness, diversity, structure, memory, length.

Legend: N rows, T tokens a row, U different rows.
"""

import math
import sys
from collections import Counter

import jax
import numpy as np
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

from jaxloop.errors import InputError
from jaxloop.learners.placement import measuring_device
from jaxloop.loop.rows import KINDS, Rows, unique_rows
from jaxloop.systems.logic.judge import (
    EMPTY,
    INVALID,
    SYNTAX,
    TRUE_VERDICT,
    UNFINISHED,
    VERDICTS,
    Judgement,
    judge_jitted,
)
from jaxloop.systems.logic.structure import canonical_rows, distinct_ngrams, hill_number, shannon_entropy, shape_rows
from jaxloop.systems.logic.vocabulary import VOCABULARY, decode

TOP_SAMPLES = 10

# A block of distances is this many pairs, so that memory stays bounded whatever the corpus.
_BLOCK_PAIRS = 4_000_000


def verdicts(tokens_NxT: np.ndarray) -> Judgement:
    """What the judge says of each row, as arrays on the host; does not wait for loops that are being computed."""
    with jax.default_device(measuring_device()):
        verdict_N, fault_N, depth_N = map(np.asarray, judge_jitted(tokens_NxT))
    return Judgement(verdict_N, fault_N, depth_N)


def pairwise_diversity(sequences: list[str], counts: list[int] | np.ndarray) -> float:
    """Mean normalised Levenshtein distance over all unordered pairs of a multiset of sequences, exactly.

        2 / (N (N - 1))  sum over i < j of  levenshtein(i, j) / max(length(i), length(j))

    the diversity of Briesch et al. (2023), with the longer length as the normaliser (theirs is not quoted).
    Equal sequences are at distance 0, also two empty ones.

    Args:
      sequences: the U different sequences, one character a token.
      counts: how often each occurs; they sum to N.

    Returns:
      A number in [0, 1]; not a number for fewer than two sequences.
    """
    counts_U = np.asarray(counts, np.float64)
    total = counts_U.sum()
    if total < 2:
        return math.nan
    length_U = np.array([len(sequence) for sequence in sequences], np.float64)
    longest = int(length_U.max())
    dtype = np.uint8 if longest < 2**8 else np.uint16 if longest < 2**16 else np.uint32
    block = max(1, min(len(sequences), _BLOCK_PAIRS // len(sequences)))
    weighted_distance = 0.0
    for start in range(0, len(sequences), block):
        stop = min(start + block, len(sequences))
        distance = cdist(sequences[start:stop], sequences[start:], scorer=Levenshtein.distance, dtype=dtype, workers=-1)
        share = distance / np.maximum(np.maximum.outer(length_U[start:stop], length_U[start:]), 1)
        # Pairs within the block stand in it twice.
        share[:, : stop - start] *= 0.5
        share *= counts_U[start:]
        weighted_distance += float((share.sum(axis=1) * counts_U[start:stop]).sum())
    return 2 * weighted_distance / (total * (total - 1))


def diversity(tokens_NxT: np.ndarray) -> float:
    """`pairwise_diversity` of rows of tokens; `<eos>` does not count as a token."""
    tokens_UxT, _, counts_U = unique_rows(tokens_NxT)
    texts = [
        row.tobytes()[:length].decode("latin-1")
        for row, length in zip(tokens_UxT, VOCABULARY.lengths(tokens_UxT), strict=True)
    ]
    return pairwise_diversity(texts, counts_U)


def corpus_diversity(lines: list[list[bytes]]) -> tuple[float, float]:
    """(diversity, unique share) of any corpus, a list of words a line."""
    symbols: dict[bytes, str] = {}

    def symbol(word: bytes) -> str:
        if word not in symbols:
            if len(symbols) > sys.maxunicode:
                raise InputError(f"the corpus has more than {sys.maxunicode + 1:,} different words")
            symbols[word] = chr(len(symbols))
        return symbols[word]

    counts = Counter("".join(map(symbol, words)) for words in lines)
    if not lines:
        return math.nan, math.nan
    return pairwise_diversity(list(counts), list(counts.values())), len(counts) / len(lines)


def measure_rows(tokens_NxT: np.ndarray, judgement: Judgement) -> dict[str, float]:
    """What is measured of one generation's samples alone; `columns` gives each column's meaning."""
    rows = len(tokens_NxT)
    is_true_N = judgement.verdict_N == TRUE_VERDICT
    valid_N = judgement.verdict_N != INVALID
    counts_U = unique_rows(tokens_NxT)[2]
    shares = {
        f"{name}_share": np.count_nonzero(judgement.verdict_N == code) / rows
        for code, name in reversed(list(enumerate(VERDICTS)))
    }
    faults = {
        f"{name}_share": np.count_nonzero(judgement.fault_N == code) / rows
        for code, name in ((SYNTAX, "syntax"), (UNFINISHED, "unfinished"), (EMPTY, "empty"))
    }
    return {
        **shares,
        **faults,
        "diversity": diversity(tokens_NxT),
        "true_diversity": diversity(tokens_NxT[is_true_N]) if is_true_N.any() else math.nan,
        "unique_share": len(counts_U) / rows,
        "heterozygosity": 1 - float(np.sum((counts_U / rows) ** 2)),
        "entropy_nats": shannon_entropy(counts_U),
        "mean_length_tokens": float(VOCABULARY.lengths(tokens_NxT).mean()),
        "mean_depth": float(judgement.depth_N[valid_N].mean()) if valid_N.any() else math.nan,
    }


def measure_structure(tokens_NxT: np.ndarray, judgement: Judgement, due: bool = True) -> dict[str, float]:
    """What is measured of the samples' meaning and form; not a number where it is not due, or nothing is valid."""
    columns = {f"distinct_{n}": distinct_ngrams(tokens_NxT, n) if due else math.nan for n in range(1, 5)}
    valid_NxT = tokens_NxT[judgement.verdict_N != INVALID]
    if due and len(valid_NxT):
        canonical_C, shape_C = (unique_rows(rows(valid_NxT))[2] for rows in (canonical_rows, shape_rows))
    else:
        canonical_C = shape_C = np.empty(0)
    return {
        "canonical_share": len(canonical_C) / len(valid_NxT) if len(canonical_C) else math.nan,
        "canonical_entropy_nats": shannon_entropy(canonical_C),
        **{f"canonical_hill_{order}": hill_number(canonical_C, order) for order in range(3)},
        "shape_entropy_nats": shannon_entropy(shape_C),
        **columns,
    }


def measure_training(tokens_NxT: np.ndarray, training: Rows) -> dict[str, float]:
    """What is measured of the rows that trained a model, and of its samples beside them."""
    known = set(map(bytes, unique_rows(training.points)[0]))
    tokens_UxT, _, counts_U = unique_rows(tokens_NxT)
    seen = sum(int(count) for row, count in zip(tokens_UxT, counts_U, strict=True) if bytes(row) in known)
    rows = len(training.kind_N)
    return {
        "seen_in_training_share": seen / len(tokens_NxT),
        "training_rows": rows,
        "training_diversity": diversity(training.points),
        "training_unique_share": len(known) / rows,
        **{f"{name}_rows_share": np.count_nonzero(training.kind_N == kind) / rows for kind, name in enumerate(KINDS)},
    }


def top_samples(tokens_NxT: np.ndarray, judgement: Judgement, most: int = TOP_SAMPLES) -> list[tuple[str, int, str]]:
    """(text, count, verdict) of the most frequent samples, most frequent first, ties in order of their tokens."""
    tokens_UxT, inverse_N, counts_U = unique_rows(tokens_NxT)
    verdict_U = np.empty(len(tokens_UxT), np.int64)
    verdict_U[inverse_N] = judgement.verdict_N
    order = np.argsort(-counts_U, kind="stable")[:most]
    return [(decode(tokens_UxT[place]), int(counts_U[place]), VERDICTS[verdict_U[place]]) for place in order]
