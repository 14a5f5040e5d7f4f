"""How far a model's distribution over rows is from its source: estimates with their errors, and exact sums.

p is the source, q the model as it writes (the sampling temperature applied). q gives mass to what p does not: to rows
that are false, invalid, or of another depth. That mass is reported by itself, and the reverse divergence is that
of q within the support of p, or it would be infinite for every model:

    forward KL       sum p(x) log(p(x) / q(x))
    inside           Q = sum of q(x) over the support of p
    reverse KL       sum over the support of (q(x) / Q) log(q(x) / (Q p(x)))
    total variation  1/2 sum |p(x) - q(x)|, over everything that q can write

Legend: H held-out real rows, N sampled rows, W rows of the whole language.
"""

import math
from typing import NamedTuple

import numpy as np


class Estimate(NamedTuple):
    """A number that was estimated from a sample, and its standard error."""

    value: float
    standard_error: float


def mean_of(values_N: np.ndarray) -> Estimate:
    """Mean of independent values; its error is not a number where there are fewer than two, or one is infinite."""
    if len(values_N) == 0:
        return Estimate(math.nan, math.nan)
    value = float(np.mean(values_N))
    if len(values_N) < 2 or not math.isfinite(value):
        return Estimate(value, math.nan)
    return Estimate(value, float(np.std(values_N, ddof=1) / math.sqrt(len(values_N))))


def forward_kl(source_log_prob_H: np.ndarray, model_log_prob_H: np.ndarray) -> Estimate:
    """KL(source || model) in nats from real rows that the model has not seen.

    The cross-entropy minus the exact entropy, with less noise: what log p adds to the cross-entropy of these rows is
    taken off row by row, since its mean is the entropy. Infinite if the model holds one of the rows impossible.

    Args:
      source_log_prob_H, model_log_prob_H: nats.
    """
    return mean_of(source_log_prob_H - model_log_prob_H)


def reverse_kl(source_log_prob_N: np.ndarray, model_log_prob_N: np.ndarray) -> Estimate:
    """KL(model within the support || source) in nats from the model's own samples.

    Args:
      source_log_prob_N: nats; minus infinity outside the support.
      model_log_prob_N: nats, under the distribution that wrote the rows.

    Returns:
      The estimate; not a number if no sample lies in the support. Its error has two parts that do not depend on each
      other: that of the mean over the samples inside, and that of log Q, by the delta method.
    """
    inside_N = np.isfinite(source_log_prob_N)
    inside_share = float(np.mean(inside_N))
    value, standard_error = mean_of(model_log_prob_N[inside_N] - source_log_prob_N[inside_N])
    if inside_share == 0:
        return Estimate(math.nan, math.nan)
    share_error = math.sqrt((1 - inside_share) / (inside_share * len(inside_N)))
    return Estimate(value - math.log(inside_share), math.hypot(standard_error, share_error))


def total_variation(source_log_prob_N: np.ndarray, model_log_prob_N: np.ndarray) -> Estimate:
    """Total variation between model and source from the model's own samples: the mean of 1 - p / q where it is above 0.

    Args:
      source_log_prob_N: nats; minus infinity outside the support.
      model_log_prob_N: nats, under the distribution that wrote the rows.
    """
    return mean_of(-np.expm1(np.minimum(source_log_prob_N - model_log_prob_N, 0)))


class ExactDistances(NamedTuple):
    """Sums over a whole language."""

    forward_kl_nats: float
    reverse_kl_nats: float
    total_variation: float
    inside_share: float  # Q
    false_share: float  # mass on the enumerated rows that are outside the support
    invalid_share: float  # mass on everything else
    covered_share: float  # mass of the source on rows that are alive


def exact_distances(source_log_prob_W: np.ndarray, model_log_prob_W: np.ndarray, alive_share: float) -> ExactDistances:
    """The distances by summing over every row that there is, inside the support of the source and outside.

    Args:
      source_log_prob_W: nats; minus infinity outside the support.
      model_log_prob_W: nats.
      alive_share: see `is_alive`.
    """
    inside_W = np.isfinite(source_log_prob_W)
    source_log_prob, model_log_prob = source_log_prob_W[inside_W], model_log_prob_W[inside_W]
    p, q = np.exp(source_log_prob), np.exp(model_log_prob)
    inside, false = math.fsum(q), math.fsum(np.exp(model_log_prob_W[~inside_W]))
    # Rounding may carry the sum a little above 1.
    invalid = max(0.0, 1 - inside - false)
    written = q > 0
    reverse = math.fsum(q[written] * (model_log_prob - source_log_prob)[written])
    return ExactDistances(
        forward_kl_nats=math.fsum(p * (source_log_prob - model_log_prob)),
        reverse_kl_nats=reverse / inside - math.log(inside) if inside > 0 else math.nan,
        total_variation=0.5 * (math.fsum(np.abs(p - q)) + false + invalid),
        inside_share=inside,
        false_share=false,
        invalid_share=invalid,
        covered_share=min(1.0, math.fsum(p[is_alive(source_log_prob, model_log_prob, alive_share)])),
    )


def is_alive(source_log_prob_N: np.ndarray, model_log_prob_N: np.ndarray, alive_share: float) -> np.ndarray:
    """Whether the model still gives each row at least this part of its true probability, (N,) bool."""
    return model_log_prob_N >= source_log_prob_N + math.log(alive_share)
