"""The Gaussian system: what the loop, the run folder and plans ask of it, put together."""

from collections.abc import Hashable
from typing import Any

import numpy as np

from jaxloop.loop.interfaces import Learner
from jaxloop.systems.gaussian import closed_forms, source
from jaxloop.systems.gaussian.columns import COLUMNS
from jaxloop.systems.gaussian.learners import reference_learner
from jaxloop.systems.gaussian.measures import Distances
from jaxloop.systems.gaussian.moments import DTYPE, MomentsLearner
from jaxloop.systems.gaussian.normal import Tenths, log_prob
from jaxloop.systems.gaussian.settings import GaussianConfig
from jaxloop.systems.interfaces import RowFormat, System


class Gaussian(System[GaussianConfig]):
    """A normal distribution that is fitted to its own samples (Shumailov et al. 2023)."""

    columns = COLUMNS

    def row_format(self, config: GaussianConfig) -> RowFormat:
        """A number."""
        return RowFormat("points", DTYPE, ())

    def kept_of_samples(self, config: GaussianConfig) -> dict[str, np.dtype]:
        """Its log-density."""
        return {"log_prob": np.dtype(np.float64)}

    def first_rows(self, config: GaussianConfig, seed: int) -> np.ndarray:
        """Numbers, see `source`."""
        return source.first_rows(config, seed)

    def fresh_rows(self, config: GaussianConfig, seed: int, generation: int, count: int) -> np.ndarray:
        """Numbers, see `source`."""
        return source.fresh_rows(config, seed, generation, count)

    def score(self, config: GaussianConfig, name: str, points: np.ndarray) -> np.ndarray:
        """Density under the source, and how much is missing of the tenth by density."""
        if name == "source":
            normal = source.source_of(config)
            return log_prob(points, normal.mean, normal.deviation)
        return super().score(config, name, points)

    def classes(self, config: GaussianConfig, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tenths by density."""
        tenths = Tenths(source.source_of(config))
        return tenths.of(points), np.full(tenths.count, 1 / tenths.count)

    def learner(self, config: GaussianConfig, loop_count: int) -> Learner[GaussianConfig, Any, Any]:
        """Moments, or a reference learner."""
        return MomentsLearner(config, loop_count) if config.learner.name == "moments" else reference_learner()

    def measures(self, config: GaussianConfig) -> Distances:
        """Moments, and exact distances to the source."""
        return Distances(config)

    def measured_alike(self, config: GaussianConfig) -> Hashable:
        """The source, and how many real rows there are."""
        return config.system, config.cycle.rows

    def texts(self, points: np.ndarray) -> list[str]:
        """Numbers."""
        return [f"{point:.7g}" for point in points.tolist()]

    def against_divergence(self, config: GaussianConfig) -> str:
        """Less temperature."""
        return f"lower sample.temperature (there {config.sample.temperature:g}), which widens each generation"

    def expected(self, config: GaussianConfig) -> dict[str, np.ndarray]:
        """See `closed_forms`."""
        return closed_forms.expected(config)

    def tail_classes(self, config: GaussianConfig) -> int:
        """Tenths by density."""
        return Tenths.count

    def probed_every(self, config: GaussianConfig) -> int:
        """Never: its moments say everything of a model."""
        return 0
