"""The checks that rows must pass before they train, each with the literature's name and result.

    verifier     accepts right rows but for a share of them, and a share of the wrong ones (Feng et al. 2024)
    likelihood   keeps a share of the rows by their probability: the likeliest, the middle, or the least likely
    most_copies  keeps so many copies of a row at most
    choice       of every K rows an annotator picks one, by a reward (Ferbach et al. 2024)
    detector     of the new rows, fresh ones among them, takes generated ones less often (Drayson et al. 2025)

Legend: N rows, K rows of which one is picked, M = N / K groups of them.
"""

import copy
import math
from collections.abc import Callable
from typing import Protocol

import numpy as np

from jaxloop.config.schema import CurationSettings
from jaxloop.loop.rows import SAMPLED, Rows, ranks_within, unique_rows

# Of what has no probability at all: the least that differences can be taken of.
_LEAST_REWARD = -1e300


class Candidates:
    """Rows that may pass, in the order in which they were written."""

    def __init__(
        self, points: np.ndarray, log_prob_N: np.ndarray | None, score: Callable[[str, np.ndarray], np.ndarray]
    ):
        """Begin with all rows that a model wrote.

        Args:
          points: (N, ...).
          log_prob_N: nats, under the model; None where nobody knows.
          score: what the system says of rows, see `Source.score`; asked for all of them at once, for their number is
            the same in all generations.
        """
        self._points, self._log_prob_N = points, log_prob_N
        self._place: slice | np.ndarray = slice(None)  # nothing is copied where nothing is checked
        self._ask = score
        self._scores: dict[str, np.ndarray] = {}

    def take(self, place: np.ndarray) -> "Candidates":
        """Those at these places."""
        taken = copy.copy(self)
        taken._place = place if isinstance(self._place, slice) else self._place[place]
        return taken

    @property
    def points(self) -> np.ndarray:
        """The rows, (N, ...)."""
        return self._points[self._place]

    @property
    def log_prob_N(self) -> np.ndarray | None:
        """Nats, under the model that wrote them; None where nobody knows."""
        return None if self._log_prob_N is None else self._log_prob_N[self._place]

    def score(self, name: str) -> np.ndarray:
        """What the system says of them, (N,)."""
        if name not in self._scores:
            self._scores[name] = self._ask(name, self._points)
        return self._scores[name][self._place]

    def __len__(self) -> int:
        return len(self._points if isinstance(self._place, slice) else self._place)


class Check(Protocol):
    """One stage of curation."""

    def __call__(
        self, settings: CurationSettings, candidates: Candidates, generator: np.random.Generator
    ) -> np.ndarray:
        """The places of the rows that pass, rising."""
        ...


def verifier(settings: CurationSettings, candidates: Candidates, generator: np.random.Generator) -> np.ndarray:
    """Right rows but for a share of them, and a share of the wrong ones; what is deeper than it knows it rejects.

    With c right rows of all, c (1 - reject) / (c (1 - reject) + (1 - c) accept) of those that pass are right: the odds
    grow by (1 - reject) / accept, and among right rows nothing changes.
    """
    right_N = candidates.score("truth") > 0.5
    accepted_N = generator.random(len(right_N)) < np.where(right_N, 1 - settings.false_reject, settings.false_accept)
    if settings.known_depth is not None:
        accepted_N &= candidates.score("depth") <= settings.known_depth
    return np.flatnonzero(accepted_N)


def likelihood(settings: CurationSettings, candidates: Candidates, generator: np.random.Generator) -> np.ndarray:
    """A share of the rows by their probability; among equals chance decides."""
    if settings.judge == "source":
        log_prob_N = candidates.score("source")
    else:
        log_prob_N = candidates.log_prob_N
        assert log_prob_N is not None, "the loop refuses a learner that says no probabilities"
    count = len(log_prob_N)
    kept = math.ceil(settings.keep_share * count)
    order_N = np.lexsort((generator.random(count), -log_prob_N))
    first = {"likeliest": 0, "middle": (count - kept) // 2, "least_likely": count - kept}[settings.keep]
    return np.sort(order_N[first : first + kept])


def most_copies(settings: CurationSettings, candidates: Candidates, generator: np.random.Generator) -> np.ndarray:
    """The first copies of each row."""
    _, inverse_N, _ = unique_rows(candidates.points)
    return np.flatnonzero(ranks_within(inverse_N) < settings.most_copies)


def choice(settings: CurationSettings, candidates: Candidates, generator: np.random.Generator) -> np.ndarray:
    """Of every K rows the one that an annotator picks, in proportion to exp(reward / temperature).

    At a temperature of 0 it is one of the best. An annotator that errs reads the reward with the other sign.
    """
    reward_N = np.maximum(candidates.score(settings.reward), _LEAST_REWARD)
    groups, size = len(reward_N) // settings.choose_from, settings.choose_from
    reward_MxK = reward_N[: groups * size].reshape(groups, size)
    errs_Mx1 = generator.random((groups, 1)) < settings.choice_error
    reward_MxK = np.where(errs_Mx1, -reward_MxK, reward_MxK)
    if settings.choice_temperature:
        # The greatest of rewards with Gumbel noise is a draw from their softmax.
        reward_MxK = reward_MxK / settings.choice_temperature + generator.gumbel(size=reward_MxK.shape)
    is_best_MxK = reward_MxK == reward_MxK.max(axis=1, keepdims=True)
    picked_M = np.where(is_best_MxK, generator.random(reward_MxK.shape), -1.0).argmax(axis=1)
    return np.arange(groups) * size + picked_M


CHECKS: dict[str, Check] = {
    "verifier": verifier,
    "likelihood": likelihood,
    "most_copies": most_copies,
    "choice": choice,
}


def rows_for_one(settings: CurationSettings) -> int:
    """How many rows a chain reads for each one that it lets pass at most."""
    return settings.choose_from if "choice" in settings.names else 1


def detected(settings: CurationSettings, rows: Rows, generator: np.random.Generator) -> Rows:
    """As many rows, drawn in proportion to (1 - confidence)^b, where the confidence is that a row is generated.

    The detector gives generated rows 1 - e and others e. Of a share f of others f (1 - e)^b / (f (1 - e)^b + (1 - f)
    e^b) come out of it, in the mean.
    """
    error = settings.detector_error
    generated_N = rows.kind_N == SAMPLED
    weight_N = np.where(generated_N, error, 1 - error) ** settings.detector_exponent
    total = weight_N.sum()
    probability_N = weight_N / total if total > 0 else np.full(len(weight_N), 1 / len(weight_N))
    return rows.take(np.sort(generator.choice(len(weight_N), len(weight_N), p=probability_N)))
