"""Training one model from scratch on packed rows: one traced function from key and data to the best parameters.

Legend: P packed rows, L tokens a packed row, B packed rows a step, S steps.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxloop.config import TrainSettings
from jaxloop.model import Model
from jaxloop.packing import NO_TARGET, Packed


class TrainingKnobs(NamedTuple):
    """Settings of training that are traced."""

    learning_rate: jax.Array
    weight_decay: jax.Array


class Training(NamedTuple):
    """A model in training, after any number of looks at the validation rows."""

    parameters: dict
    optimiser_state: optax.OptState
    best_parameters: dict  # those of the best look
    best_validation_nats: jax.Array  # per expression, at that look
    training_nats: jax.Array  # per token, at the last step; not a number if training diverged
    step: jax.Array  # steps taken
    looks_without_gain: jax.Array


def token_nats(logits_BxLxV: jax.Array, targets_BxL: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Summed negative log-likelihood in nats of all targets that are not NO_TARGET, and their number."""
    counted_BxL = targets_BxL != NO_TARGET
    labels_BxL = jnp.where(counted_BxL, targets_BxL, 0).astype(jnp.int32)
    nats_BxL = optax.softmax_cross_entropy_with_integer_labels(logits_BxLxV, labels_BxL)
    return jnp.sum(jnp.where(counted_BxL, nats_BxL, 0)), jnp.sum(counted_BxL)


def make_evaluate(model: Model, batch_rows: int) -> Callable[[dict, Packed], jax.Array]:
    """Build `evaluate(parameters, packed) -> nats per expression`, `<eos>` included, without dropout.

    Only batches that hold rows are computed, so padding up to the capacity costs nothing.
    """

    def evaluate(parameters: dict, packed: Packed) -> jax.Array:
        capacity = packed.inputs_PxL.shape[0]
        size = min(batch_rows, capacity)

        def add_batch(index, total):
            # The last batch is moved back to end with the array; what it repeats is left out of the sum.
            start = jnp.minimum(index * size, capacity - size)
            inputs_BxL = jax.lax.dynamic_slice_in_dim(packed.inputs_PxL, start, size)
            targets_BxL = jax.lax.dynamic_slice_in_dim(packed.targets_PxL, start, size)
            repeated_B = start + jnp.arange(size) < index * size
            targets_BxL = jnp.where(repeated_B[:, None], jnp.uint8(NO_TARGET), targets_BxL)
            return total + token_nats(model.apply(parameters, inputs_BxL), targets_BxL)[0]

        batches = (packed.row_count + size - 1) // size
        return jax.lax.fori_loop(0, batches, add_batch, 0.0) / packed.expression_count

    return evaluate


def make_optimiser(settings: TrainSettings, knobs: TrainingKnobs) -> optax.GradientTransformation:
    """AdamW behind a clip of the global norm; linear warm-up, then a cosine down to the final share."""
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
            knobs.weight_decay, mask=lambda parameters: jax.tree.map(lambda leaf: leaf.ndim >= 2, parameters)
        ),
        optax.scale_by_learning_rate(learning_rate),
    )


def looks(settings: TrainSettings) -> int:
    """How many times `train_and_look` is called to take all the steps."""
    return -(-settings.steps // settings.evaluate_every_steps)


def make_train(settings: TrainSettings, model: Model) -> tuple[Callable, Callable]:
    """Build the two traced functions that train a model.

    Returns:
      `begin(init_key, knobs) -> Training`, and
      `train_and_look(Training, dropout_key, knobs, training, validation, order_SxB, active) -> Training`, which takes
      the steps up to the next look at the validation rows, and looks. Calling it `looks(settings)` times trains the
      model; where all steps are taken, patience has run out, or `active` is false, it returns what it was given at
      no cost. The shapes of the packed rows are fixed; how many of them count is traced.
    """
    evaluate = make_evaluate(model, settings.batch_rows)

    def begin(init_key: jax.Array, knobs: TrainingKnobs) -> Training:
        parameters = model.init(init_key)
        return Training(
            parameters=parameters,
            optimiser_state=make_optimiser(settings, knobs).init(parameters),
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
        training: Packed,
        validation: Packed,
        order_SxB: jax.Array,
        active: jax.Array,
    ) -> Training:
        optimiser = make_optimiser(settings, knobs)

        def loss(parameters, step):
            rows_B = order_SxB[step]
            logits = model.apply(parameters, training.inputs_PxL[rows_B], jax.random.fold_in(dropout_key, step))
            nats, count = token_nats(logits, training.targets_PxL[rows_B])
            return nats / jnp.maximum(count, 1)

        def take_step(step, carry):
            parameters, optimiser_state, _ = carry
            nats, gradient = jax.value_and_grad(loss)(parameters, step)
            updates, optimiser_state = optimiser.update(gradient, optimiser_state, parameters)
            return optax.apply_updates(parameters, updates), optimiser_state, nats

        goes_on = active & (state.step < settings.steps)
        if settings.patience_evaluations:
            goes_on &= state.looks_without_gain < settings.patience_evaluations
        until = jnp.where(goes_on, jnp.minimum(state.step + settings.evaluate_every_steps, settings.steps), state.step)
        parameters, optimiser_state, training_nats = jax.lax.fori_loop(
            state.step, until, take_step, (state.parameters, state.optimiser_state, state.training_nats)
        )
        looked_at = validation._replace(row_count=jnp.where(goes_on, validation.row_count, 0))
        nats = jnp.where(goes_on, evaluate(parameters, looked_at), jnp.inf)
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
