"""What is known of a loop of normal distributions without running it: means over seeds, by generation.

With n rows and the source N(mu, sigma^2), the model of generation t has been through k = t + 1 fits. V is the mean of
its variance s^2, B that of (mu_t - mu)^2. Sources: Shumailov et al. 2023 (replacing); Kazdan et al. 2024 (a pool that
is subsampled); derivations in the text of the functions. Everything in units of sigma^2 where a function says nothing
else.

Legend: G generations.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import special

from jaxloop.loop.rows import row_count
from jaxloop.systems.gaussian.settings import GaussianConfig


class Spread(NamedTuple):
    """Means over seeds of the model's variance, and of the squared error of its mean; (G,), sigma^2 = 1."""

    variance_G: np.ndarray  # V
    squared_error_G: np.ndarray | None  # B; None where it is not known


def replaced(rows: int, generations: int, unbiased: bool, temperature: float, fresh_rows_G: list[int]) -> Spread:
    """Each generation trains on the rows of the one before, some of them fresh; generation 0 on real rows.

    Of n rows m are synthetic, of variance W = T V, and q are fresh. The variance within n rows that are m and q, each
    with a mean of its own, is

        V' = [(m - 1) W + (q - 1) + (m q / n) (B + W / m + 1 / q)] / n
        B' = (m / n)^2 (B + W / m) + (q / n)^2 / q

    which for q = 0 comes to V' = (1 - 1/n) W. The unbiased estimator has n/(n - 1) times V'.
    """
    n = rows
    correction = n / (n - 1) if unbiased else 1.0
    variance, squared_error = (1 - 1 / n) * correction, 1 / n
    found = [(variance, squared_error)]
    for q in fresh_rows_G[1:generations]:
        m, written = n - q, temperature * variance
        # The product over n, so that neither m nor q must be there.
        between = (m * q * squared_error + q * written + m) / n
        variance = ((m - 1) * written + (q - 1) + between) / n * correction
        squared_error = (m / n) ** 2 * squared_error + m / n**2 * written + q / n**2
        found.append((variance, squared_error))
    return Spread(*map(np.array, zip(*found, strict=True)))


def expanding(rows: int, generations: int) -> Spread:
    """All rows train again, by maximum likelihood: V = prod over j <= k of (1 - 1/(n j^2)), and V + B = 1."""
    fit_G = np.arange(1, generations + 1)
    variance_G = np.cumprod(1 - 1 / (rows * fit_G.astype(float) ** 2))
    return Spread(variance_G, 1 - variance_G)


def subsampled(rows: int, generations: int) -> Spread:
    """Train on n rows of the N = n k that have been, by maximum likelihood, without the error of the mean.

    The pool has the variance P, P_0 = 1 - 1/n. Of a part drawn without replacement V = a P, a = N (n - 1) / ((N - 1)
    n), and its mean lies b P from the pool's, b = (N - n) / ((N - 1) n). So n rows more make the pool's variance

        P' = P [N + (n - 1) a + (N n / (N + n)) (b + a / n)] / (N + n)
    """
    n, pool, found = rows, 1 - 1 / rows, []
    for fit in range(1, generations + 1):
        total = n * fit
        part, off = total * (n - 1) / ((total - 1) * n), (total - n) / ((total - 1) * n)
        found.append(part * pool)
        between = total * n / (total + n) * (off + part / n)
        pool *= (total + (n - 1) * part + between) / (total + n)
    return Spread(np.array(found), None)


def fixed_real(rows: int, generations: int) -> Spread:
    """Train on the n real rows and n synthetic ones, by maximum likelihood.

    With m synthetic rows, w = n/(n + m), v0 = 1 - 1/n, and d the mean squared distance of the model's mean from that of
    the real rows:

        V' = w v0 + (1 - w) (m - 1) V / m + w (1 - w) (d + V / m),    d' = (1 - w)^2 (d + V / m),    B = d + 1/n
    """
    m, share = rows, 0.5
    real = variance = 1 - 1 / rows
    apart, found = 0.0, []
    for _ in range(generations):
        found.append((variance, apart + 1 / rows))
        apart_now = apart + variance / m
        variance = share * real + (1 - share) * (m - 1) * variance / m + share * (1 - share) * apart_now
        apart = (1 - share) ** 2 * apart_now
    return Spread(*map(np.array, zip(*found, strict=True)))


class Steps(NamedTuple):
    """What one fit to n rows of a normal distribution does to its variance: independent factors, generation by
    generation.
    """

    deviation: float  # the mean of the factor's root
    log: float  # the mean of its logarithm, in nats
    inverse: float  # the mean of its inverse


def steps(rows: int, unbiased: bool) -> Steps:
    """A sum of squares with n - 1 degrees of freedom, over n, or n - 1 if unbiased."""
    freedom = rows - 1
    divisor = freedom if unbiased else rows
    root = math.exp(special.gammaln(rows / 2) - special.gammaln(freedom / 2))
    return Steps(
        math.sqrt(2 / divisor) * root,
        float(special.digamma(freedom / 2)) + math.log(2 / divisor),
        divisor / (freedom - 2),
    )


def _of_moments(config: GaussianConfig) -> dict[str, np.ndarray]:
    """What is known of the learner `moments`."""
    cycle, temperature = config.cycle, config.sample.temperature
    rows, generations, unbiased = cycle.rows, cycle.generations, config.learner.estimator == "unbiased"
    fresh_rows_G = [row_count(cycle.fresh_part(generation), rows) for generation in range(generations)]
    without_fresh = not any(fresh_rows_G[1:])
    if cycle.name == "full_synthetic":
        spread = replaced(rows, generations, unbiased, temperature, fresh_rows_G)
    elif cycle.name in _REMEMBERED and without_fresh and not unbiased and temperature == 1:
        spread = _REMEMBERED[cycle.name](rows, generations)
    else:
        return {}
    found = {
        "model_variance": spread.variance_G,
        "sample_variance": (1 - 1 / rows) * temperature * spread.variance_G,
    }
    if spread.squared_error_G is None:
        return found
    found["squared_mean_error"] = spread.squared_error_G
    if cycle.name == "full_synthetic" and without_fresh:
        found |= _of_steps(rows, unbiased, temperature, spread.variance_G, spread.squared_error_G)
    return found


_REMEMBERED: dict[str, Callable[[int, int], Spread]] = {
    "expanding": expanding,
    "subsampled": subsampled,
    "fixed_real": fixed_real,
}


def _of_steps(
    rows: int, unbiased: bool, temperature: float, variance_G: np.ndarray, squared_error_G: np.ndarray
) -> dict[str, np.ndarray]:
    """What follows where a generation trains on nothing but the rows of the one before: the variance is a product.

    The model as it writes has T s^2, and T^k with it. Of KL(source, model) the heavy tail of 1/s^2 decides: its mean
    grows where nearly all seeds stay far below it.
    """
    step, fit_G = steps(rows, unbiased), np.arange(1, len(variance_G) + 1)
    deviation_G = step.deviation**fit_G * temperature ** ((fit_G - 1) / 2)
    log_G = fit_G * step.log + (fit_G - 1) * math.log(temperature)
    written_log_G, root = log_G + math.log(temperature), math.sqrt(temperature)
    written_V_G = temperature * variance_G
    # Of each past error of the mean, in units of what the variance has shrunk to since.
    shrunk_G = (step.inverse / temperature) ** fit_G
    return {
        "diversity": steps(rows, False).deviation * root * deviation_G,
        "model_standard_deviation": deviation_G,
        "log_variance_ratio": log_G,
        "squared_wasserstein_2": squared_error_G + written_V_G + 1 - 2 * root * deviation_G,
        "reverse_kl_nats": 0.5 * (written_V_G + squared_error_G - 1 - written_log_G),
        "forward_kl_nats": 0.5 * (written_log_G + shrunk_G + np.cumsum(shrunk_G) / rows - 1),
    }


def expected(config: GaussianConfig) -> dict[str, np.ndarray]:
    """By column of metrics.csv its mean over seeds in each generation, (G,), where a closed form is known."""
    cycle, learner, variance = config.cycle, config.learner.name, config.system.standard_deviation**2
    fits_G = np.arange(1, cycle.generations + 1)
    kept = 1 - 1 / cycle.rows
    if config.curation.names:
        found = {}
    elif learner == "moments":
        found = _of_moments(config)
    elif learner == "oracle":
        found = {"sample_variance": np.full(cycle.generations, kept * config.sample.temperature)}
    elif (
        learner == "resample"
        and cycle.name == "full_synthetic"
        and not any(row_count(cycle.fresh_part(generation), cycle.rows) for generation in range(1, cycle.generations))
    ):
        # Rows drawn with replacement: what two of them differ by shrinks as heterozygosity does.
        found = {"sample_variance": kept ** (fits_G + 1)}
    else:
        found = {}
    powers = {name: _POWERS.get(name, 0) / 2 for name in found}
    return {name: mean_G * variance ** powers[name] for name, mean_G in found.items()}


# Of sigma, by which a column grows with the unit of the rows.
_POWERS = {
    "diversity": 1,
    "model_standard_deviation": 1,
    "model_variance": 2,
    "sample_variance": 2,
    "squared_mean_error": 2,
    "squared_wasserstein_2": 2,
}
