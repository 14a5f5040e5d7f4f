"""The logic language as a system: what the loop, the run folder and plans ask of it, put together."""

from collections.abc import Callable, Hashable
from typing import Any

import jax
import numpy as np

from jaxloop.learners.transformer.costs import place_parts, planning_part, training_operations, weight_count
from jaxloop.learners.transformer.model import activation_dtype, make_model
from jaxloop.loop.interfaces import Learner
from jaxloop.systems.interfaces import ModelCost, RowFormat, System
from jaxloop.systems.logic import census, measures, source
from jaxloop.systems.logic.columns import COLUMNS
from jaxloop.systems.logic.judge import TRUE_VERDICT, VERDICTS, Judgement, judge_jitted
from jaxloop.systems.logic.language import ENUMERATION_LIMIT, language_of
from jaxloop.systems.logic.learners import reference_learner, transformer_learner
from jaxloop.systems.logic.settings import LogicConfig
from jaxloop.systems.logic.vocabulary import VOCABULARY, decode
from jaxloop.systems.logic.yardsticks import Yardsticks

_NODE_BYTES = 16  # of each node of the full tree as which an expression is drawn
_TENTHS, _ROOTS = 10, 3
_PARSED_TOKEN_BYTES, _PARSED_ROW_BYTES = 25, 150  # of rows while they are judged, or learnt by a reference learner


class Logic(System[LogicConfig]):
    """Logic expressions, written by a transformer or by a learner whose losses are known."""

    columns = COLUMNS

    def row_format(self, config: LogicConfig) -> RowFormat:
        """Tokens, as many as a row may have."""
        return RowFormat("tokens", np.dtype(np.uint8), (config.model.context_tokens,))

    def kept_of_samples(self, config: LogicConfig) -> dict[str, np.dtype]:
        """What the judge says, and its log-probability."""
        dtypes = {"verdict": np.int8, "fault": np.int8, "depth": np.int32, "log_prob": np.float64}
        return {name: np.dtype(dtype) for name, dtype in dtypes.items()}

    def first_rows(self, config: LogicConfig, seed: int) -> np.ndarray:
        """Rows of tokens, see `source`."""
        return source.first_rows(config, seed)

    def fresh_rows(self, config: LogicConfig, seed: int, generation: int, count: int) -> np.ndarray:
        """Rows of tokens, see `source`."""
        return source.fresh_rows(config, seed, generation, count)

    def score(self, config: LogicConfig, name: str, points: np.ndarray) -> np.ndarray:
        """Truth, length and depth of expressions, their probability, and how much is missing of their depth."""
        if name == "length":
            return VOCABULARY.lengths(points).astype(np.float64)
        verdict_N, _, depth_N = map(np.asarray, judge_jitted(points))
        if name == "truth":
            return (verdict_N == TRUE_VERDICT).astype(np.float64)
        if name == "depth":
            return depth_N.astype(np.float64)
        if name == "source":
            return language_of(config.language).log_prob(points, verdict_N)
        return super().score(config, name, points)

    def classes(self, config: LogicConfig, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Depths of expressions."""
        language, (verdict_N, _, depth_N) = language_of(config.language), map(np.asarray, judge_jitted(points))
        inside_N = np.isfinite(language.log_prob(points, verdict_N))
        return np.where(inside_N, depth_N, -1), census.depth_masses(language)

    def learner(self, config: LogicConfig, loop_count: int) -> Learner[LogicConfig, Any, Any]:
        """The transformer, or a reference learner."""
        return transformer_learner(config, loop_count) if self.trains(config) else reference_learner()

    def measures(self, config: LogicConfig) -> Yardsticks:
        """Correctness, diversity, structure, and distances to the source."""
        return Yardsticks(config)

    def measured_alike(self, config: LogicConfig) -> Hashable:
        """The language, the real rows, and the settings of measuring."""
        cycle, width = config.cycle, config.model.context_tokens
        return config.language, config.measure, cycle.rows, cycle.first_mass_share, width

    def texts(self, points: np.ndarray) -> list[str]:
        """Expressions."""
        return [decode(row_T) for row_T in points]

    def results_depend_on(self, config: LogicConfig) -> dict[str, str]:
        """The dtype of activations, which may go by the device."""
        return {"activations": str(activation_dtype(config.model))}

    def against_divergence(self, config: LogicConfig) -> str:
        """Shorter steps."""
        return f"the loss became not a number, so lower train.learning_rate (there {config.train.learning_rate:g})"

    def judged(self, samples: dict[str, np.ndarray]) -> list[str]:
        """The verdicts."""
        return [VERDICTS[verdict] for verdict in samples["verdict"].tolist()]

    def top_rows(self, samples: dict[str, np.ndarray]) -> list[dict]:
        """With what the judge says of each."""
        judgement = Judgement(samples["verdict"], samples["fault"], samples["depth"])
        return [
            {"rank": rank, "count": count, "verdict": verdict, "text": text}
            for rank, (text, count, verdict) in enumerate(measures.top_samples(samples["tokens"], judgement), start=1)
        ]

    def parameter_shapes(self, config: LogicConfig) -> dict:
        """Those of a transformer."""
        if not self.trains(config):
            return {}
        return jax.eval_shape(make_model(config.model, VOCABULARY).init, jax.random.key(0))

    def trains(self, config: LogicConfig) -> bool:
        """The transformer does."""
        return config.learner.name == "transformer"

    def training_operations(self, config: LogicConfig) -> float:
        """Those of transformers."""
        if not self.trains(config):
            return 0.0
        return training_operations(config, VOCABULARY, language_of(config.language).mean_tokens)

    def model_cost(self, config: LogicConfig) -> ModelCost:
        """That of transformers."""
        weights, parts = weight_count(config.model, VOCABULARY), place_parts(config, VOCABULARY)
        return ModelCost(weights, parts, [planning_part(config)])

    def stand_in(self, config: LogicConfig) -> LogicConfig:
        """A memoriser stands for models."""
        if not self.trains(config):
            return config
        return config.model_copy(update={"learner": config.learner.model_copy(update={"name": "resample"})})

    def smaller(self, config: LogicConfig, rows: int, with_whole: bool) -> LogicConfig:
        """As many held-out rows."""
        measure = {"held_out_rows": rows, "enumerate_every_generations": int(with_whole)}
        update = {"measure": config.measure.model_copy(update=measure)}
        return super().smaller(config, rows, with_whole).model_copy(update=update)

    def different_rows(self, config: LogicConfig) -> float:
        """Expressions of the language."""
        return language_of(config.language).expression_count

    def held_out_rows(self, config: LogicConfig) -> int:
        """Those that losses and distances are measured on."""
        return config.measure.held_out_rows

    def drawn_rows(self, config: LogicConfig) -> int:
        """Some are rejected where the first real data is a part of the source."""
        return 2 * config.cycle.rows if config.cycle.first_mass_share < 1 else 0

    def learnt_rows(self, config: LogicConfig, training_rows: int) -> int:
        """Grammars and n-grams are counted in all rows at once."""
        return training_rows if config.learner.name in ("ngram", "grammar") else training_rows // 3

    def whole_rows(self, config: LogicConfig) -> int:
        """All expressions, where the measures enumerate them."""
        count = language_of(config.language).expression_count
        return count if config.measure.enumerate_every_generations and count <= ENUMERATION_LIMIT else 0

    def tail_classes(self, config: LogicConfig) -> int:
        """Tenths, depths, numbers of operators, tokens at the root."""
        depth = config.language.max_depth
        return _TENTHS + depth + 1 + 2**depth + _ROOTS

    def working_bytes(self, config: LogicConfig, rows: int) -> float:
        """Judged, parsed, or counted into n-grams."""
        return rows * (_PARSED_TOKEN_BYTES * config.model.context_tokens + _PARSED_ROW_BYTES)

    def drawing_bytes(self, config: LogicConfig, rows: int) -> float:
        """Full trees."""
        depth = config.language.max_depth
        return min(rows, 2**24 >> depth) * 2 ** (depth + 1) * _NODE_BYTES

    def pairwise(self) -> Callable[[np.ndarray], float]:
        """Diversity."""
        return measures.diversity

    def probed_every(self, config: LogicConfig) -> int:
        """Where distances are due."""
        return config.measure.distances_every_generations

    def whole_every(self, config: LogicConfig) -> int:
        """Where the settings say so."""
        return config.measure.enumerate_every_generations

    def rare(self, config: LogicConfig) -> tuple[int, ...]:
        """Structure, and distances."""
        return config.measure.structure_every_generations, config.measure.distances_every_generations
