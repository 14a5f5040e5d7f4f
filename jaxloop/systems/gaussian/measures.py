"""What is measured of a generation: all of the model in closed form, from its mean and its standard deviation.

What a learner without a density is asked for in vain is not a number.

Legend: N rows, G tenths.
"""

import math

import numpy as np

from jaxloop.loop.interfaces import Record
from jaxloop.systems.gaussian.normal import Normal, Tenths, kl_nats, log_prob, total_variation, wasserstein_2
from jaxloop.systems.gaussian.settings import GaussianConfig
from jaxloop.systems.gaussian.source import first_rows, source_of
from jaxloop.systems.interfaces import Measured, Measures

ALIVE_SHARE = 0.1  # of the true density: a row to which the model gives less is dead


class Distances(Measures[GaussianConfig]):
    """Moments of samples and model, and the model's distances to the source."""

    def __init__(self, config: GaussianConfig):
        """Measure loops whose real rows are those of these settings."""
        self._config, self._source = config, source_of(config)
        self._tenths = Tenths(self._source)
        self._first: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def prepare(self, seed: int) -> None:
        """Draw the first real rows."""
        self._first_of(seed)

    def _first_of(self, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The first real rows, their tenths and their log-densities, (N,) each."""
        if seed not in self._first:
            points_N = first_rows(self._config, seed)
            self._first[seed] = points_N, self._tenths.of(points_N), log_prob(points_N, *self._source)
        return self._first[seed]

    def tail_rows(self, generation: int) -> int:
        """One for each tenth."""
        return Tenths.count

    def measure(self, record: Record[GaussianConfig]) -> Measured:
        """Measure one generation of one loop."""
        config, training_N = record.loop.config, record.state.carry.training.points
        sample_mean, deviation = _moments(record.written.points)
        columns = {
            "diversity": deviation,
            "sample_variance": deviation**2,
            "sample_mean": sample_mean,
            "training_rows": len(training_N),
            "training_diversity": _moments(training_N)[1],
        }
        model = self._model(record)
        if model is None:
            shares = np.bincount(self._tenths.of(training_N), minlength=Tenths.count) / len(training_N)
            return Measured(columns | _NO_MODEL, self._tails(record.loop.seed, shares.tolist(), None), {})
        source, written = self._source, Normal(model.mean, math.sqrt(config.sample.temperature) * model.deviation)
        distance, forward_nats = wasserstein_2(written, source), kl_nats(source, model)
        off = abs(model.mean - source.mean)
        ratio = model.deviation / source.deviation
        columns |= {
            "model_mean": model.mean,
            "model_standard_deviation": model.deviation,
            "model_variance": model.deviation**2,
            "mean_error": off,
            "squared_mean_error": off**2,
            "standard_deviation_error": abs(model.deviation - source.deviation),
            "log_variance_ratio": 2 * math.log(ratio) if ratio else -math.inf,
            "wasserstein_2": distance,
            "squared_wasserstein_2": distance**2,
            "total_variation": total_variation(written, source),
            "forward_kl_nats": kl_nats(source, written),
            "reverse_kl_nats": kl_nats(written, source),
            "held_out_nats": source.entropy_nats + forward_nats,
            "untempered_forward_kl_nats": forward_nats,
            "untempered_forward_kl_standard_error_nats": 0.0,
        }
        return Measured(columns, self._tails(record.loop.seed, self._tenths.shares(written), written), {})

    def _model(self, record: Record[GaussianConfig]) -> Normal | None:
        """The model, without the temperature; None where there is no density."""
        said, name = record.written.columns, record.loop.config.learner.name
        if name == "oracle":
            return self._source
        if said.keys() >= {"model_mean", "model_standard_deviation"}:  # As a learner of one's own may say, too.
            return Normal(said["model_mean"], said["model_standard_deviation"])
        return None

    def _tails(self, seed: int, shares: list[float], written: Normal | None) -> list[dict]:
        """The rows of tails.csv: of each tenth the model's mass, and what is alive of the first real rows."""
        points_N, tenth_N, log_prob_N = self._first_of(seed)
        rows_G = np.bincount(tenth_N, minlength=Tenths.count)
        alive_G = np.full(Tenths.count, math.nan)
        if written is not None:
            is_alive_N = log_prob(points_N, *written) >= log_prob_N + math.log(ALIVE_SHARE)
            alive_G = np.bincount(tenth_N[is_alive_N], minlength=Tenths.count)
        return [
            {
                "classes": "tenth",
                "class": label,
                "source_share": 1 / Tenths.count,
                "model_share": share,
                "standard_error": 0.0,
                "first_rows": rows,
                "alive_share": alive / rows if rows else math.nan,
            }
            for label, share, rows, alive in zip(Tenths.labels, shares, rows_G.tolist(), alive_G.tolist(), strict=True)
        ]


def _moments(points_N: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of rows, in double precision."""
    points_N = points_N.astype(np.float64)
    rows = len(points_N)
    mean = float(points_N.sum()) / rows
    points_N -= mean
    return mean, math.sqrt(float(points_N @ points_N) / rows)


_NO_MODEL = dict.fromkeys(
    (
        "model_mean",
        "model_standard_deviation",
        "model_variance",
        "mean_error",
        "squared_mean_error",
        "standard_deviation_error",
        "log_variance_ratio",
        "wasserstein_2",
        "squared_wasserstein_2",
        "total_variation",
        "forward_kl_nats",
        "reverse_kl_nats",
        "held_out_nats",
        "untempered_forward_kl_nats",
        "untempered_forward_kl_standard_error_nats",
    ),
    math.nan,
)
