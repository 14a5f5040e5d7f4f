"""Measures how fast this machine runs the loop, part by part, as medians with their spread over repeats."""

import platform
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxloop.config.schema import Loop, loops
from jaxloop.learners.placement import on_cpu, peak_memory_bytes
from jaxloop.learners.transformer.costs import operations_per_position
from jaxloop.learners.transformer.sample import Work
from jaxloop.learners.transformer.train import Training, looks
from jaxloop.loop.interfaces import Record, Seconds, State, Written
from jaxloop.loop.memories import first
from jaxloop.runs.environment import nothing_kept, prepare, processor_name
from jaxloop.runs.measuring import kept_of
from jaxloop.runs.resources import core_count
from jaxloop.systems.logic import measures
from jaxloop.systems.logic.language import language_of
from jaxloop.systems.logic.learners import transformer_learner
from jaxloop.systems.logic.settings import LogicConfig
from jaxloop.systems.logic.source import first_rows, held_out_rows
from jaxloop.systems.logic.vocabulary import VOCABULARY
from jaxloop.systems.logic.yardsticks import REAL, Yardsticks
from jaxloop.systems.registry import system_of

# What one round of training should take; it takes a number of steps that is guessed from the machine's ceiling.
_ROUND_SECONDS = 2.0
_MEASURED_SAMPLES = 10_000


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and greatest of the repeats."""
    return {"median": statistics.median(values), "least": min(values), "greatest": max(values)}


def ceiling_flops(repeats: int) -> dict[str, float]:
    """Floating-point operations a second of products of square matrices, float32 on a CPU, on all devices at once."""
    size = 2048 if on_cpu() else 8192
    dtype = jnp.float32 if on_cpu() else jnp.bfloat16
    multiply = jax.jit(lambda matrix: matrix @ matrix)
    matrices = [jax.device_put(jnp.ones((size, size), dtype), device) for device in jax.local_devices()]
    jax.block_until_ready([multiply(matrix) for matrix in matrices])
    rates = []
    for _ in range(repeats):
        begun = time.perf_counter()
        jax.block_until_ready([multiply(matrix) for matrix in matrices])
        rates.append(len(matrices) * 2 * size**3 / (time.perf_counter() - begun))
    return spread(rates)


class Bench:
    """A config's learner with data in its hands: one loop, or as many as fill the machine."""

    def __init__(self, config: LogicConfig, loop_count: int, round_steps: int, rounds: int):
        train = {"steps": max(round_steps * rounds, 2), "evaluate_every_steps": round_steps, "patience_evaluations": 0}
        self.config = config.model_copy(update={"train": config.train.model_copy(update=train)})
        self.loop_count, self.round_steps = loop_count, round_steps
        self.learner = transformer_learner(self.config, loop_count)
        drawn = [(first_rows(config, seed), held_out_rows(config, seed)) for seed in range(loop_count)]
        inputs = [
            self.learner.inputs(Loop(seed, seed, {}, self.config), 0, rows_NxT)
            for seed, (rows_NxT, _) in enumerate(drawn)
        ]
        self.probes = [self.learner.probe(np.concatenate([held_out, rows])) for rows, held_out in drawn]
        training = inputs[0].training
        cost_N = VOCABULARY.lengths_with_end(np.asarray(training.tokens_NxT))
        self.tokens_per_step = float(cost_N[training.plan.expression_SxE].sum(axis=1).mean())
        shape = self.learner.shape
        chunks_S = -(-training.plan.row_count_S // shape.chunk_rows)
        self.positions_per_step = float(chunks_S.mean() * shape.chunk_rows * shape.row_tokens)
        self.group = self.learner.put(inputs)
        self.state: Training | None = None

    def compile_seconds(self) -> dict[str, float]:
        """Seconds to compile each program, none of them taken from the cache of earlier starts."""
        learner, (_, inputs, active, batches) = self.learner, self.group
        state = jax.eval_shape(learner.begin, inputs)
        programs = {
            "begin": (learner.begin, (inputs,)),
            "train": (learner.train, (state, inputs, active)),
            "sample": (learner.sample, (state.best_parameters, inputs, batches)),
            "score": (learner.score, (state.best_parameters, inputs, learner.corpora(self.probes), active)),
        }
        seconds = {}
        with nothing_kept():
            for name, (program, arguments) in programs.items():
                begun = time.perf_counter()
                program.lower(*arguments).compile()
                seconds[name] = time.perf_counter() - begun
        return seconds

    def _begun(self) -> Training:
        """The loops as they stand, begun where they are not."""
        self.state = state = self.learner.begin(self.group.inputs) if self.state is None else self.state
        return state

    def train_round(self) -> float:
        """Seconds of one round of training, which ends with a look, unless looks are left out."""
        state = self._begun()
        jax.block_until_ready(state)
        begun = time.perf_counter()
        self.state, step = self.learner.train(state, self.group.inputs, self.group.active)
        jax.block_until_ready((self.state, step))
        return time.perf_counter() - begun

    def without_looks(self) -> None:
        """Leave out the looks from here on: a round may be far shorter than what is between two."""
        plan = self.group.inputs.validation.plan
        validation = self.group.inputs.validation._replace(
            plan=plan._replace(row_count_S=jnp.zeros_like(plan.row_count_S))
        )
        self.group = self.group._replace(inputs=self.group.inputs._replace(validation=validation))

    def score_round(self) -> float:
        """Seconds of scoring all loops' probes: held-out rows and as many real ones as a loop begins with."""
        parameters, begun = self._begun().parameters, time.perf_counter()
        self.learner.score_rows(parameters, self.group, self.probes)
        return time.perf_counter() - begun

    def look_round(self) -> float:
        """Seconds of one look at the validation rows; measured by scoring probes, and by their number."""
        validation = int(self.group.inputs.validation.expression_count[0])
        return self.score_round() * validation / len(self.probes[0].place_N)

    def sample_round(self) -> tuple[float, np.ndarray, Work]:
        """Seconds of sampling all loops' rows from the models as they are, the rows (N, T), and the work they took."""
        parameters, begun = self._begun().parameters, time.perf_counter()
        tokens_GxNxT, _, work = self.learner.sample_rows(parameters, self.group)
        return time.perf_counter() - begun, np.concatenate(tokens_GxNxT), work


def bench(config: LogicConfig, repeats: int, say: Callable[[str], None]) -> dict:
    """Measure compilation, training, sampling, the measures and memory, for one loop and for a full machine.

    Args:
      config: what to measure.
      repeats: of every measurement, after one that is not counted.
      say: is told what is going on.
    """
    prepare()
    counts = tuple(dict.fromkeys((1, len(jax.local_devices()) if on_cpu() else 8)))
    say("the machine's ceiling")
    ceiling = ceiling_flops(repeats)
    settings = config.model_dump(mode="json", exclude_none=True)
    results = {"machine": describe_machine(), "repeats": repeats, "config": settings}
    results["ceiling_gflops"] = _scaled(ceiling, 1e-9)
    round_steps = steps_of_a_round(config, ceiling["median"] / len(jax.local_devices()))
    for count in counts:
        say(f"{count} loop{'s' if count > 1 else ''}: compiling")
        subject = Bench(config, count, round_steps, repeats + 1)
        part = {"loops": count, "compile_seconds": subject.compile_seconds()}
        say(f"{count} loop{'s' if count > 1 else ''}: training, {round_steps} steps a round")
        subject.without_looks()
        seconds = [subject.train_round() for _ in range(repeats + 1)][1:]
        row_tokens = subject.learner.shape.row_tokens
        flops = subject.positions_per_step * operations_per_position(config, VOCABULARY, row_tokens)
        part["training"] = {
            "row_tokens": row_tokens,
            "chunk_rows": subject.learner.shape.chunk_rows,
            "useful_tokens_per_step": subject.tokens_per_step,
            "computed_positions_per_step": subject.positions_per_step,
            "milliseconds_per_step": spread([1e3 * value / round_steps for value in seconds]),
            "milliseconds_per_look": spread([1e3 * subject.look_round() for _ in range(repeats + 1)][1:]),
            "useful_tokens_per_second": spread([count * subject.tokens_per_step * round_steps / t for t in seconds]),
            "share_of_ceiling": spread([count * flops * round_steps / t / ceiling["median"] for t in seconds]),
        }
        part["scoring"] = {
            "real_expressions": len(subject.probes[0].place_N),
            "seconds": spread([subject.score_round() for _ in range(repeats + 1)][1:]),
        }
        say(f"{count} loop{'s' if count > 1 else ''}: sampling")
        rounds = [subject.sample_round() for _ in range(repeats + 1)][1:]
        rows_NxT, work = rounds[0][1:]
        written = int(VOCABULARY.lengths_with_end(rows_NxT).sum())
        part["sampling"] = {
            "samples_per_second": spread([len(rows_NxT) / t for t, *_ in rounds]),
            "tokens_per_second": spread([written / t for t, *_ in rounds]),
            "tokens_read_for_each_written": work.read / written,
            "wasted_decode_share": 1 - work.read / work.computed,
        }
        results[f"loops_{count}"] = part
    say("the measures")
    results["measuring"] = bench_measures(config, repeats)
    for part in (results[f"loops_{count}"] for count in counts):
        step, look = (part["training"][f"milliseconds_per_{name}"]["median"] for name in ("step", "look"))
        train = (config.train.steps * step + looks(config.train) * look) / 1e3
        sample = part["loops"] * config.cycle.rows / part["sampling"]["samples_per_second"]["median"]
        measured = results["measuring"]["everything, those two included"]["median"]
        measure = measured * config.cycle.rows / _MEASURED_SAMPLES
        score = part["scoring"]["seconds"]["median"]
        part["generation_seconds"] = {
            "training": train,
            "sampling": sample,
            "scoring real expressions": score,
            "measuring, while the next one trains": part["loops"] * measure,
            "a generation": max(train + sample + score, part["loops"] * measure),
            "share that scoring and measuring take of all work": (score + part["loops"] * measure)
            / (train + sample + score + part["loops"] * measure),
        }
    results["peak_memory_bytes"] = peak_memory_bytes()
    return results


def bench_measures(config: LogicConfig, repeats: int) -> dict[str, dict[str, float]]:
    """Seconds of what the host does with 10,000 samples; here they are real expressions, the most diverse there are.

    The judge and the Levenshtein diversity by themselves, and then all together, as a run measures a generation.
    """
    language = language_of(config.language)
    rows_NxT = language.draw(np.random.default_rng(0), _MEASURED_SAMPLES, config.model.context_tokens)
    loop = loops(config)[0]
    assert isinstance(loop.config, LogicConfig)
    yardsticks = Yardsticks(config)
    real = len(yardsticks.real_rows(loop.seed).tokens_NxT)
    written = Written(rows_NxT, language.log_prob(rows_NxT), {REAL: np.full((2, real), -1.0)}, {}, {}, False)
    record = Record(loop, State(0, first(config.cycle, rows_NxT), rows_NxT), written, Seconds(0.0, 0.0, {}))
    seconds = {"verifying": [], "diversity": [], "everything, those two included": []}
    for _ in range(repeats + 1):
        times = [time.perf_counter()]
        measures.verdicts(rows_NxT)
        times.append(time.perf_counter())
        measures.diversity(rows_NxT)
        times.append(time.perf_counter())
        kept_of(record, yardsticks, system_of(config))
        times.append(time.perf_counter())
        for name, spent in zip(seconds, np.diff(times), strict=True):
            seconds[name].append(float(spent))
    return {name: spread(values[1:]) for name, values in seconds.items()}


def steps_of_a_round(config: LogicConfig, flops_per_second: float) -> int:
    """Steps that take about as long as a round should, if a third of the ceiling is reached."""
    tokens = config.train.batch_expressions * (language_of(config.language).mean_tokens + 1)
    step_seconds = (
        tokens * operations_per_position(config, VOCABULARY, config.model.context_tokens) / (flops_per_second / 3)
    )
    return int(np.clip(_ROUND_SECONDS / step_seconds, 1, 200))


def describe_machine() -> dict:
    """What the numbers were measured on."""
    return {
        "processor": processor_name(),
        "cores": core_count(),
        "devices": [device.device_kind for device in jax.local_devices()],
        "jax": jax.__version__,
        "python": platform.python_version(),
    }


def _scaled(values: dict[str, float], factor: float) -> dict[str, float]:
    return {name: value * factor for name, value in values.items()}
