"""Training one model from scratch on packed expressions: traced functions from key and data to the best parameters.

Legend: N expressions, T tokens an expression, R rows, L positions a row, V vocabulary (see `packing`).
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxloop.learners.placement import Array
from jaxloop.learners.transformer.model import Model, matrices_of
from jaxloop.learners.transformer.packing import Plan, Rows, RowShape, Step, lay_out, most_rows, step_of
from jaxloop.learners.transformer.partial_sums import add_in_order
from jaxloop.learners.transformer.settings import TrainSettings
from jaxloop.learners.vocabulary import Vocabulary


class Corpus(NamedTuple):
    """Expressions, and the plan of how steps read them."""

    tokens_NxT: Array  # uint8, sorted by `packing.sort_rows`; rows that the plan does not name are padding
    plan: Plan
    expression_count: Array  # int32


class TrainingKnobs(NamedTuple):
    """Settings of training that are traced."""

    learning_rate: Array
    weight_decay: Array


class Training(NamedTuple):
    """A model in training, after any number of looks at the validation rows."""

    parameters: dict
    optimiser_state: optax.OptState
    best_parameters: dict  # those of the best look
    best_validation_nats: jax.Array  # per expression, at that look
    training_nats: jax.Array  # per token, at the last step; not a number if training diverged
    step: jax.Array  # steps taken
    looks_without_gain: jax.Array


def make_read(vocabulary: Vocabulary, width: int, expressions: int, shape: RowShape) -> Callable:
    """Build `read(corpus, step) -> Step, Rows, chunks`: a step, its rows, and how many chunks hold something."""
    size = shape.chunk_rows
    capacity = -(-most_rows(expressions, width, shape.row_tokens) // size) * size

    def read(corpus: Corpus, step: jax.Array) -> tuple[Step, Rows, jax.Array]:
        of_step = step_of(corpus.tokens_NxT, vocabulary, corpus.plan, step, capacity * shape.row_tokens)
        rows = lay_out(of_step, vocabulary, capacity, shape.row_tokens)
        return of_step, rows, jax.lax.div(corpus.plan.row_count_S[step] + (size - 1), size)

    return read


def take_chunk(rows: Rows, chunk: jax.Array, size: int) -> Rows:
    """One chunk of so many rows."""
    return Rows(*(jax.lax.dynamic_slice_in_dim(array, chunk * size, size) for array in rows))


def chunk_nats(
    model: Model, size: int, parameters: dict, rows: Rows, chunk: jax.Array, key: jax.Array | None = None
) -> jax.Array:
    """Negative log-likelihood in nats, summed over all targets of one chunk of so many rows."""
    inputs_RxL, depth_RxL, targets_RxLxV = take_chunk(rows, chunk, size)
    logits_RxLxV = model.apply(parameters, inputs_RxL, depth_RxL, key)
    return -jnp.sum(targets_RxLxV * jax.nn.log_softmax(logits_RxLxV))


def make_evaluate(model: Model, width: int, expressions: int, shape: RowShape) -> Callable:
    """Build `evaluate(parameters, corpus, active) -> nats per expression`, `<eos>` included, without dropout.

    The corpus has one step, of so many expressions at most. Where `active` is false, nothing is computed.
    """
    read = make_read(model.vocabulary, width, expressions, shape)

    def evaluate(parameters: dict, corpus: Corpus, active: jax.Array) -> jax.Array:
        _, rows, chunks = read(corpus, 0)

        def add_chunk(chunk, total):
            return total + chunk_nats(model, shape.chunk_rows, parameters, rows, chunk)

        return jax.lax.fori_loop(0, jnp.where(active, chunks, 0), add_chunk, 0.0) / corpus.expression_count

    return evaluate


def make_optimiser(
    settings: TrainSettings, knobs: TrainingKnobs, matrices: Callable = matrices_of
) -> optax.GradientTransformation:
    """AdamW behind a clip of the global norm; linear warm-up, then a cosine down to the final share.

    What decays are the matrices, see `Model.matrices`.
    """
    peak = knobs.learning_rate

    def learning_rate(step):
        warmup = (step + 1) / max(settings.warmup_steps, 1)
        decay_steps = max(settings.steps - settings.warmup_steps, 1)
        progress = jnp.clip((step - settings.warmup_steps) / decay_steps, 0, 1)
        cosine = 0.5 * (1 + jnp.cos(jnp.pi * progress))
        final = settings.final_learning_rate_share
        return peak * jnp.where(step < settings.warmup_steps, warmup, final + (1 - final) * cosine)

    return optax.chain(
        optax.clip_by_global_norm(settings.clip_norm),
        optax.scale_by_adam(b1=settings.beta1, b2=settings.beta2),
        optax.add_decayed_weights(
            jnp.asarray(knobs.weight_decay),
            mask=matrices,
        ),
        optax.scale_by_learning_rate(learning_rate),
    )


def looks(settings: TrainSettings) -> int:
    """How many times `train_and_look` is called to take all the steps."""
    return -(-settings.steps // settings.evaluate_every_steps)


def make_train(
    settings: TrainSettings, model: Model, width: int, validation_expressions: int, shape: RowShape, devices: int = 1
) -> tuple[Callable, Callable]:
    """Build the two traced functions that train a model, on so many devices that share its partial sums.

    Returns:
      `begin(init_key, knobs) -> Training`, and
      `train_and_look(Training, dropout_key, knobs, training, validation, active) -> Training`, which takes the steps up
      to the next look at the validation expressions, and looks. Calling it `looks(settings)` times trains the model;
      where all steps are taken, patience has run out, or `active` is false, it returns what it was given at no cost.
    """
    read = make_read(model.vocabulary, width, settings.batch_expressions, shape)
    evaluate = make_evaluate(model, width, validation_expressions, shape)

    def begin(init_key: jax.Array, knobs: TrainingKnobs) -> Training:
        parameters = model.init(init_key)
        return Training(
            parameters=parameters,
            optimiser_state=make_optimiser(settings, knobs, model.matrices).init(parameters),
            best_parameters=parameters,
            best_validation_nats=jnp.float32(jnp.inf),
            training_nats=jnp.float32(0),
            step=jnp.int32(0),
            looks_without_gain=jnp.int32(0),
        )

    def train_and_look(
        state: Training,
        dropout_key: jax.Array,
        knobs: TrainingKnobs,
        training: Corpus,
        validation: Corpus,
        active: jax.Array,
    ) -> Training:
        optimiser = make_optimiser(settings, knobs, model.matrices)

        def take_step(step, carry):
            parameters, optimiser_state, _ = carry
            _, rows, chunks = read(training, step)
            key = jax.random.fold_in(dropout_key, step)

            nothing = jnp.float32(0), jax.tree.map(jnp.zeros_like, parameters)

            def sum_every(stride, first):
                def add_chunk(turn, total):
                    chunk = first + turn * stride
                    nats_and_gradient = jax.value_and_grad(chunk_nats, argnums=2)(
                        model, shape.chunk_rows, parameters, rows, chunk, jax.random.fold_in(key, chunk)
                    )
                    return jax.tree.map(jnp.add, total, nats_and_gradient)

                return jax.lax.fori_loop(0, jax.lax.div(chunks - first + (stride - 1), stride), add_chunk, nothing)

            sums = settings.partial_sums
            if sums == 1:
                total = sum_every(1, 0)
            else:
                total = add_in_order(functools.partial(sum_every, sums), sums, devices, nothing)
            targets = jnp.sum(rows.targets_RxLxV)
            nats, gradient = jax.tree.map(lambda summed: summed / targets, total)
            updates, optimiser_state = optimiser.update(gradient, optimiser_state, parameters)
            return optax.apply_updates(parameters, updates), optimiser_state, nats

        goes_on = active & (state.step < settings.steps)
        if settings.patience_evaluations:
            goes_on &= state.looks_without_gain < settings.patience_evaluations
        until = jnp.where(goes_on, jnp.minimum(state.step + settings.evaluate_every_steps, settings.steps), state.step)
        parameters, optimiser_state, training_nats = jax.lax.fori_loop(
            state.step, until, take_step, (state.parameters, state.optimiser_state, state.training_nats)
        )
        nats = jnp.where(goes_on, evaluate(parameters, validation, goes_on), jnp.inf)
        gained = nats < state.best_validation_nats
        return Training(
            parameters=parameters,
            optimiser_state=optimiser_state,
            best_parameters=jax.tree.map(
                lambda new, best: jnp.where(gained, new, best), parameters, state.best_parameters
            ),
            best_validation_nats=jnp.minimum(nats, state.best_validation_nats),
            training_nats=training_nats,
            step=until,
            looks_without_gain=jnp.where(gained, 0, state.looks_without_gain + goes_on),
        )

    return begin, train_and_look
