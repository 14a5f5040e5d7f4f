"""What the transformer costs, from its settings alone: weights, operations, memory."""

import math

from jaxloop.learners.placement import on_cpu
from jaxloop.learners.transformer.packing import most_rows
from jaxloop.learners.transformer.sample import batch_count, chunk_prefixes
from jaxloop.learners.transformer.settings import ModelSettings, TransformerConfig
from jaxloop.learners.vocabulary import Vocabulary
from jaxloop.loop.interfaces import Part
from jaxloop.loop.memories import memory_of

_PLANNING_BYTES = 70  # of each row of each training step


def weight_count(model: ModelSettings, vocabulary: Vocabulary) -> int:
    """Numbers in a model, all of them."""
    width, layers = model.width, model.layers
    return 12 * width**2 * layers + (2 * layers + 1) * width + (vocabulary.size + model.context_tokens) * width


def operations_per_position(config: TransformerConfig, vocabulary: Vocabulary, row_tokens: int) -> float:
    """Operations of a training step for each position: forward, and twice as many backward; products of matrices."""
    model = config.model
    matrices = 12 * model.width**2 * model.layers + vocabulary.size * model.width
    attention = 2 * row_tokens * model.width * model.layers
    return 3 * 2 * (matrices + attention)


def training_operations(config: TransformerConfig, vocabulary: Vocabulary, mean_tokens: float) -> float:
    """About how many floating-point operations it takes to train all models of a loop, padding not counted.

    Args:
      config: of the loop.
      vocabulary: of its rows.
      mean_tokens: tokens of a row, in the mean, `<eos>` not counted.
    """
    tokens = config.train.steps * config.train.batch_expressions * (mean_tokens + 1)
    context = config.model.context_tokens
    return config.cycle.generations * tokens * operations_per_position(config, vocabulary, context)


def place_parts(config: TransformerConfig, vocabulary: Vocabulary) -> list[Part]:
    """Memory that one loop takes of its device, or on a CPU of the memory of all."""
    cycle, model, train = config.cycle, config.model, config.train
    width, rows = model.context_tokens, memory_of(cycle).training_rows(cycle.generations - 1)
    row_tokens = train.row_tokens or width
    weights = 4 * weight_count(model, vocabulary)
    # A model that begins is there twice, each time with two moments and as the best one; and the parameters of its
    # last generation wait to be written.
    models = 9 * weights
    batch = -(-cycle.rows // batch_count(cycle.rows, config.sample.batch_rows))
    chunk = chunk_prefixes(batch)
    cache = 2 * model.layers * model.width * (4 if on_cpu() else 2) * (batch * width + chunk)
    sampler = cache + 16 * chunk * width * model.width + 2 * cycle.rows * (width + 4)
    laid_out = max(train.batch_expressions, math.ceil(train.validation_share * rows), min(rows, 1024))
    laid_out = most_rows(laid_out, width, row_tokens) * row_tokens * (4 * vocabulary.size + 4)
    plans = 12 * train.steps * train.batch_expressions + rows * (width + 12)
    # What lies on accelerators is not the machine's; the state of training comes back as a whole.
    model_share, sampler_share = (1.0, 1.0) if on_cpu() else (0.6, 0.0)
    return [
        Part(models, "models", "lower model.width or model.layers", model_share),
        # Meanwhile the model and its moments are there once.
        Part(max(sampler - 3 * weights, 0), "what sampling has read", "lower sample.batch_rows", sampler_share),
        Part(
            laid_out + 2 * plans,
            "rows of training steps",
            "lower cycle.rows, train.steps or train.batch_expressions",
        ),
    ]


def planning_part(config: TransformerConfig) -> Part:
    """Memory in which it is decided where every row of every training step lies, for one loop after the other."""
    rows = config.train.steps * config.train.batch_expressions
    return Part(_PLANNING_BYTES * rows, "planning training steps", "lower train.steps or train.batch_expressions")
