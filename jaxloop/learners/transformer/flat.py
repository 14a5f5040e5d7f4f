"""Parameters as two vectors.

An accelerator pays for each array that it casts, sums and updates: 226 of the 566 kernels that an H100 launched for a
training step of `paper` were there because its parameters are 40 arrays.

Legend: P numbers of all matrices, Q numbers of all other arrays.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxloop.learners.placement import on_cpu
from jaxloop.learners.transformer.model import Model, activation_dtype, make_model
from jaxloop.learners.transformer.settings import ModelSettings
from jaxloop.learners.vocabulary import Vocabulary


class FlatParameters(NamedTuple):
    """The arrays of a model, in the order of its tree, each row by row."""

    matrices_P: Any
    others_Q: Any


def model_of_the_device(settings: ModelSettings, vocabulary: Vocabulary) -> Model:
    """The model of these settings, over the parameters that suit the machine's devices."""
    model = make_model(settings, vocabulary)
    return model if on_cpu() else flat(model, activation_dtype(settings))


def flat(model: Model, dtype) -> Model:
    """The same model over `FlatParameters`, whose matrices it reads in this dtype."""
    leaves, structure = jax.tree.flatten(jax.eval_shape(model.init, jax.random.key(0)))
    shapes = [leaf.shape for leaf in leaves]
    is_matrix = jax.tree.leaves(model.matrices(leaves))

    def join(parameters: dict) -> FlatParameters:
        vectors = [leaf.astype(jnp.float32).reshape(-1) for leaf in jax.tree.leaves(parameters)]
        of_kind = [
            [one for one, matrix in zip(vectors, is_matrix, strict=True) if matrix is kind] for kind in (True, False)
        ]
        return FlatParameters(*map(jnp.concatenate, of_kind))

    def nested(parameters: FlatParameters) -> dict:
        found, begin = [], {True: 0, False: 0}
        for shape, matrix in zip(shapes, is_matrix, strict=True):
            vector, end = parameters[0 if matrix else 1], begin[matrix] + math.prod(shape)
            found.append(vector[begin[matrix] : end].reshape(shape))
            begin[matrix] = end
        return jax.tree.unflatten(structure, found)

    # The derivative that JAX finds by itself pads the gradient of each array to the whole vector, and adds all of them.
    @jax.custom_vjp
    def read(parameters: FlatParameters) -> dict:
        return nested(parameters._replace(matrices_P=parameters.matrices_P.astype(dtype)))

    read.defvjp(lambda parameters: (read(parameters), None), lambda _, gradient: (join(gradient),))

    return Model(
        vocabulary=model.vocabulary,
        init=lambda key: join(model.init(key)),
        apply=lambda parameters, *rows: model.apply(read(parameters), *rows),
        init_cache=model.init_cache,
        decode=lambda parameters, *step: model.decode(read(parameters), *step),
        matrices=lambda parameters: FlatParameters(True, False),
        nested=nested,
    )
