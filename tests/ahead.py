"""Compiles a preset's programs for accelerators that are not here, and reads off what they would take and launch."""

import contextlib
import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import numpy as np
from jax.experimental import topologies

from jaxloop.config.presets import load
from jaxloop.config.schema import loops
from jaxloop.learners.transformer.costs import operations_per_position
from jaxloop.learners.transformer.learner import TransformerLearner
from jaxloop.learners.transformer.model import make_model
from jaxloop.learners.transformer.sample import Batches
from jaxloop.learners.transformer.train import make_evaluate
from jaxloop.runs.environment import nothing_kept
from jaxloop.runs.programs import programs
from jaxloop.systems.logic.learners import transformer_learner
from jaxloop.systems.logic.settings import LogicConfig
from jaxloop.systems.logic.source import first_rows, held_out_rows
from jaxloop.systems.logic.vocabulary import VOCABULARY


class Target(NamedTuple):
    """A machine with accelerators."""

    platform: str  # as JAX calls its compiler
    backend: str  # as JAX calls the backend that it would be
    memory_bytes: int  # of each of them
    needs: str  # the package that has its compiler
    side: int = 1  # of the square that they form, where they are TPUs


TARGETS = {
    "v5e": Target("tpu", "tpu", 16 * 10**9, "libtpu"),
    "v5e:2x2": Target("tpu", "tpu", 16 * 10**9, "libtpu", side=2),
    "h100": Target("cuda", "gpu", 80 * 10**9, "jax_cuda12_plugin"),
}


class Compiled(NamedTuple):
    """A program, compiled."""

    bytes: int  # on each device: arguments, results and what lies between
    operations: float  # floating-point, the body of each loop once; 0 where the compiler does not say
    kernels: "Kernels"


class Kernels(NamedTuple):
    """What a computation launches."""

    own: int  # each time that it is run, without its loops
    loops: list["Kernels"]

    def once(self) -> int:
        """With one turn of each of its loops."""
        return self.own + sum(loop.once() for loop in self.loops)


@functools.cache
def devices_of(name: str) -> tuple:
    """The devices of a target, which nothing can be computed on."""
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    if TARGETS[name].platform == "tpu":
        kind, side = name.partition(":")[0], TARGETS[name].side
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=f"{kind}:{side}x{side}", chips_per_host_bounds=(side, side, 1)
        )
    else:
        description = (Path(__file__).parent / f"{name}.txtpb").read_text(encoding="utf-8")
        found = topologies.get_topology_desc(
            platform="cuda", topology_name=name, topology="1x1x1", target_config=description
        )
    return tuple(found.devices[: TARGETS[name].side ** 2])


@contextlib.contextmanager
def pretending(name: str) -> Iterator[None]:
    """Make JAX's answers those of such a machine."""
    there = jax.local_devices

    def local_devices(*arguments: Any, **options: Any) -> list:
        return there(*arguments, **options) if arguments or options else list(devices_of(name))

    with (
        nothing_kept(),
        mock.patch.object(jax, "default_backend", lambda: TARGETS[name].backend),
        mock.patch.object(jax, "local_devices", local_devices),
        mock.patch.object(jax, "local_device_count", lambda: len(devices_of(name))),
    ):
        yield


class Programs:
    """The programs of the transformer of a preset, for so many loops that are mapped together on a target."""

    def __init__(self, target: str, preset: str, *overrides: str, mapped: int = 1):
        self._target, self._mapped = target, mapped
        config = load(preset, [*overrides, f"population.loops_per_device={mapped}"])
        with pretending(target):
            program = next(one for one in programs(loops(config)) if one.config.learner.name == "transformer")
            self.config, loop = program.config, program.loops[0]
            assert isinstance(self.config, LogicConfig)
            self.learner: TransformerLearner = transformer_learner(self.config, mapped)
            placement = self.learner._placement
            rows_NxT = first_rows(self.config, loop.seed)
            self.inputs = self.learner.inputs(loop, 0, rows_NxT)
            probe = self.learner.probe(np.concatenate([held_out_rows(self.config, loop.seed), rows_NxT]))
            nothing = np.array(0, np.int32)
            inputs = placement.shapes(self.inputs)
            active, batches = placement.shapes((np.bool_(True), Batches(nothing, nothing)))
            state = placement.results(self.learner.begin, inputs)
            self._called = {
                "begin": (self.learner.begin, (inputs,)),
                "train": (self.learner.train, (state, inputs, active)),
                "sample": (self.learner.sample, (state.best_parameters, inputs, batches)),
                "score": (
                    self.learner.score, (state.best_parameters, inputs, placement.shapes(probe.corpus), active),
                ),
            }  # fmt: skip

    def compiled(self, name: str) -> Compiled:
        """One of them, compiled."""
        program, shapes = self._called[name]
        with pretending(self._target):
            found = program.lower(*shapes).compile()
        memory, costs = found.memory_analysis(), found.cost_analysis() or {}
        held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
        text = found.as_text()
        kernels = kernels_of(text) if TARGETS[self._target].platform == "cuda" else Kernels(0, [])
        return Compiled(held + memory.temp_size_in_bytes, costs.get("flops", 0.0) / self._mapped, kernels)

    def operations_of_a_look(self) -> float:
        """Those of a look at the validation rows, of which the program that trains has one."""
        learner, validation = self.learner, self.inputs.validation
        with pretending(self._target):
            model = make_model(self.config.model, VOCABULARY)
            expressions = validation.plan.expression_SxE.shape[1]
            look = make_evaluate(model, self.config.model.context_tokens, expressions, learner.shape)
            shapes = jax.eval_shape(model.init, jax.random.key(0)), validation, np.bool_(True)
            on_device = jax.sharding.SingleDeviceSharding(devices_of(self._target)[0])
            shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=on_device), shapes)
            return (jax.jit(look).lower(*shapes).compile().cost_analysis() or {}).get("flops", 0.0)

    def useful_operations_of_a_step(self) -> float:
        """By arithmetic: products of matrices for the positions of a step that hold something, forward and backward."""
        tokens, plan = np.asarray(self.inputs.training.tokens_NxT), self.inputs.training.plan
        positions_N = VOCABULARY.lengths_with_end(tokens)
        own_SxE = positions_N[np.asarray(plan.expression_SxE)] - np.asarray(plan.shared_SxE)
        row_tokens = self.learner.shape.row_tokens
        return float(own_SxE.sum(axis=1).mean()) * operations_per_position(self.config, VOCABULARY, row_tokens)

    def chunks_of_a_step(self) -> float:
        """That one device computes one after the other, in the mean of generation 0."""
        chunks_S = -(-self.inputs.training.plan.row_count_S // self.learner.shape.chunk_rows)
        return float(np.ceil(chunks_S / self.config.train.partial_sums).mean())


# What an optimised program has on its lines and a GPU does not launch.
_FREE = {
    "parameter", "get-tuple-element", "tuple", "bitcast", "constant", "after-all", "async-done", "copy-done", "reshape",
}  # fmt: skip


def kernels_of(program: str) -> Kernels:
    """What a GPU launches for an optimised program, as XLA writes it."""
    bodies: dict[str, list[str]] = {}
    entry = name = ""
    for line in program.splitlines():
        if begins := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$", line):
            name = begins[2]
            bodies[name] = []
            entry = name if begins[1] else entry
        elif line.startswith("  ") and name and " = " in line:
            bodies[name].append(line)

    def count(name: str) -> Kernels:
        own, found = 0, []
        for line in bodies[name]:
            operation = re.search(r"[\])}] ([a-z][\w\-]*)\(", line.split(" = ", 1)[1])
            kind = operation[1] if operation else ""
            if kind == "while":
                body = re.search(r"body=%?([\w.\-]+)", line)
                assert body
                found.append(count(body[1]))
            elif kind in ("call", "conditional", "async-start"):
                named = re.findall(r"(?:to_apply|calls|branch_computations)=(\{[^}]*\}|%?[\w.\-]+)", line)
                branches = [count(one) for one in re.findall(r"[\w.\-]+", " ".join(named)) if one in bodies]
                most = max(branches, key=Kernels.once, default=Kernels(1, []))  # Of several, one is run.
                own, found = own + most.own, [*found, *most.loops]
            elif kind not in _FREE:
                own += 1
        return Kernels(own, found)

    return count(entry)
