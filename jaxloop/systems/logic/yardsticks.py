"""What is measured of a model against its source: distances, survival of the tails, and sums over the whole language.

Knows which rows a learner is asked for (its *probes*), when, and what the answers mean. `columns` gives each column's
meaning.

Legend: N sampled rows, H held-out rows, F rows of the first real data set, W rows of the whole language, T tokens.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxloop.config.schema import Loop
from jaxloop.loop.interfaces import Learner, Record
from jaxloop.loop.rows import unique_rows
from jaxloop.measures.distances import (
    Estimate,
    ExactDistances,
    exact_distances,
    forward_kl,
    is_alive,
    mean_of,
    reverse_kl,
    total_variation,
)
from jaxloop.systems.interfaces import Measured, Measures
from jaxloop.systems.logic import measures
from jaxloop.systems.logic.judge import INVALID, TRUE_VERDICT, Judgement
from jaxloop.systems.logic.language import language_of
from jaxloop.systems.logic.settings import LogicConfig
from jaxloop.systems.logic.source import first_rows, held_out_rows
from jaxloop.systems.logic.tails import Tails, alive_shares, describe_rows, estimated_shares, exact_shares

# The names of probes.
REAL, WHOLE = "real", "whole_language"


class RealRows(NamedTuple):
    """The real rows of one seed that every generation is measured on."""

    tokens_NxT: np.ndarray  # the held-out rows, then the first real data set
    held_out_log_prob_H: np.ndarray  # nats, under the source
    first_place_F: np.ndarray  # where the different rows of the first real data set stand
    first_log_prob_F: np.ndarray
    memberships: dict[str, np.ndarray]  # of those rows, in the classes of expressions


class WholeLanguage(NamedTuple):
    """Every expression of the grammar."""

    tokens_WxT: np.ndarray
    log_prob_W: np.ndarray  # nats, under the source
    inside_W: np.ndarray  # whether each lies in the support of the source
    memberships: dict[str, np.ndarray]  # of those inside


def is_due(every_generations: int, generation: int) -> bool:
    """Whether what is measured every so many generations is measured in this one."""
    return every_generations > 0 and generation % every_generations == 0


class Yardsticks(Measures[LogicConfig]):
    """The measures of loops with the same language, real rows and settings of measuring."""

    def __init__(self, config: LogicConfig):
        """Prepare what all generations share.

        Raises:
          InputError: the whole language is asked for, and too large to be enumerated.
        """
        self._config, self._settings = config, config.measure
        self._language = language_of(config.language)
        self._tails = Tails(self._language)
        self.source_entropy_nats = self._language.entropy_nats
        self._real: dict[int, RealRows] = {}
        if config.measure.enumerate_every_generations:
            _ = self._whole  # So that one that is too large is refused at once.

    @functools.cached_property
    def _whole(self) -> WholeLanguage:
        tokens_WxT = self._language.enumerate(self._config.model.context_tokens)
        judgement = measures.verdicts(tokens_WxT)
        log_prob_W = self._language.log_prob(tokens_WxT, judgement.verdict_N)
        inside_W = np.isfinite(log_prob_W)
        rows = describe_rows(tokens_WxT[inside_W], log_prob_W[inside_W], judgement.depth_N[inside_W])
        return WholeLanguage(tokens_WxT, log_prob_W, inside_W, self._tails.memberships(rows))

    def real_rows(self, seed: int) -> RealRows:
        """The held-out rows of a seed, and its first real data set."""
        if seed not in self._real:
            held_out_HxT, first_FxT = held_out_rows(self._config, seed), first_rows(self._config, seed)
            tokens_NxT = np.concatenate([held_out_HxT, first_FxT])
            judgement = measures.verdicts(tokens_NxT)
            log_prob_N = self._language.log_prob(tokens_NxT, judgement.verdict_N)
            held_out = len(held_out_HxT)
            _, inverse_F, _ = unique_rows(first_FxT)
            place_F = held_out + np.unique(inverse_F, return_index=True)[1]
            first = describe_rows(tokens_NxT[place_F], log_prob_N[place_F], judgement.depth_N[place_F])
            self._real[seed] = RealRows(
                tokens_NxT, log_prob_N[:held_out], place_F, log_prob_N[place_F], self._tails.memberships(first)
            )
        return self._real[seed]

    def probes(self, learner: Learner[Any, Any, Any]) -> Callable[[Loop, int], dict[str, Any]]:
        """Build the function that says what a learner is asked for, for a loop and a generation."""

        @functools.cache
        def real(seed: int) -> Any:
            return learner.probe(self.real_rows(seed).tokens_NxT)

        @functools.cache
        def whole() -> Any:
            return learner.probe(self._whole.tokens_WxT)

        def probes(loop: Loop, generation: int) -> dict[str, Any]:
            asked = {}
            if is_due(self._settings.distances_every_generations, generation):
                asked[REAL] = real(loop.seed)
            if is_due(self._settings.enumerate_every_generations, generation):
                asked[WHOLE] = whole()
            return asked

        return probes

    def tail_rows(self, generation: int) -> int:
        """How many rows of tails.csv a generation has."""
        due = is_due(self._settings.distances_every_generations, generation)
        return sum(len(classes.labels) for classes in self._tails.classes) if due else 0

    def prepare(self, seed: int) -> None:
        """Draw the real rows of a seed."""
        self.real_rows(seed)

    def measure(self, record: Record[LogicConfig]) -> Measured:
        """Measure one generation of one loop."""
        tokens_NxT = record.written.points
        judgement = measures.verdicts(tokens_NxT)
        structure_due = is_due(self._settings.structure_every_generations, record.state.generation)
        distances, tails = self._distances(record, judgement)
        columns = {
            **measures.measure_rows(tokens_NxT, judgement),
            **measures.measure_structure(tokens_NxT, judgement, structure_due),
            **measures.measure_training(tokens_NxT, record.state.carry.training),
            "source_entropy_nats": self.source_entropy_nats,
            **distances,
        }
        of_samples = {"verdict": judgement.verdict_N, "fault": judgement.fault_N, "depth": judgement.depth_N}
        return Measured(columns, tails, of_samples)

    def _distances(self, record: Record[LogicConfig], judgement: Judgement) -> tuple[dict[str, float], list[dict]]:
        """What is measured against the source: columns of metrics.csv, and the rows of tails.csv."""
        written, tokens_NxT = record.written, record.written.points
        log_prob_N = self._language.log_prob(tokens_NxT, judgement.verdict_N)
        inside_N = np.isfinite(log_prob_N)
        valid_N = judgement.verdict_N != INVALID
        allowed_N = judgement.verdict_N == TRUE_VERDICT if self._language.only_true else valid_N
        misshapen_N = allowed_N & ~inside_N
        too_deep_N = misshapen_N & (judgement.depth_N > self._language.max_depth)
        columns = {
            "outside_share": float(np.mean(~inside_N)),
            "too_deep_share": float(np.mean(too_deep_N)),
            "too_shallow_share": float(np.mean(misshapen_N & ~too_deep_N)),
        }
        real_nats, whole_nats = written.probed.get(REAL), written.probed.get(WHOLE)
        real, alive_F = self.real_rows(record.loop.seed), None
        if real_nats is not None:
            first_nats_F = real_nats[1, real.first_place_F]
            alive_F = is_alive(real.first_log_prob_F, first_nats_F, self._settings.alive_share)
        columns |= self._distance_columns(real, real_nats, alive_F, log_prob_N, written.log_prob_N)
        columns |= self._exact_columns(whole_nats)
        if alive_F is None:
            return columns, []
        if whole_nats is None:
            inside = describe_rows(tokens_NxT[inside_N], log_prob_N[inside_N], judgement.depth_N[inside_N])
            memberships = self._tails.memberships(inside)
            shares = {name: estimated_shares(of_rows, len(tokens_NxT)) for name, of_rows in memberships.items()}
        else:
            probability = np.exp(whole_nats[1, self._whole.inside_W])
            shares = {name: exact_shares(of_rows, probability) for name, of_rows in self._whole.memberships.items()}
        return columns, self._tail_rows(real, alive_F, shares)

    def _distance_columns(self, real, real_nats, alive_F, source_log_prob_N, model_log_prob_N) -> dict[str, float]:
        """Distances that are estimated from rows."""
        missing = Estimate(math.nan, math.nan)
        held_out_nats, first_alive_share = math.nan, math.nan
        forward = untempered = reverse = entropy = variation = missing
        if real_nats is not None:
            plain_H, tempered_H = real_nats[:, : len(real.held_out_log_prob_H)]
            held_out_nats = float(-np.mean(plain_H))
            forward, untempered = (forward_kl(real.held_out_log_prob_H, nats_H) for nats_H in (tempered_H, plain_H))
            reverse = reverse_kl(source_log_prob_N, model_log_prob_N)
            variation = total_variation(source_log_prob_N, model_log_prob_N)
            entropy = mean_of(-model_log_prob_N)
            first_alive_share = float(np.mean(alive_F))
        estimates = {
            "forward_kl": forward,
            "untempered_forward_kl": untempered,
            "reverse_kl": reverse,
            "model_entropy": entropy,
        }
        columns = {"held_out_nats": held_out_nats}
        for name, estimate in estimates.items():
            columns |= {f"{name}_nats": estimate.value, f"{name}_standard_error_nats": estimate.standard_error}
        columns |= {"total_variation": variation.value, "total_variation_standard_error": variation.standard_error}
        return {**columns, "alive_share": first_alive_share}

    def _exact_columns(self, whole_nats) -> dict[str, float]:
        """Distances by sums over the whole language."""
        if whole_nats is None:
            exact = ExactDistances(*[math.nan] * len(ExactDistances._fields))
        else:
            exact = exact_distances(self._whole.log_prob_W, whole_nats[1], self._settings.alive_share)
        return {f"exact_{name}": value for name, value in exact._asdict().items()}

    def _tail_rows(self, real: RealRows, alive_F: np.ndarray, shares_of: dict[str, list[Estimate]]) -> list[dict]:
        """The rows of tails.csv: every class of expressions, its mass and what is alive of its first expressions."""
        rows = []
        for classes in self._tails.classes:
            shares, first_FxG = shares_of[classes.name], real.memberships[classes.name]
            alive_G = alive_shares(first_FxG, alive_F)
            columns = zip(classes.labels, classes.source_share_G, shares, first_FxG.sum(axis=0), alive_G, strict=True)
            for label, source_share, share, first_count, alive in columns:
                rows.append(
                    {
                        "classes": classes.name,
                        "class": label,
                        "source_share": float(source_share),
                        "model_share": share.value,
                        "model_share_standard_error": share.standard_error,
                        "first_rows": float(first_count),
                        "alive_share": float(alive),
                    }
                )
        return rows
