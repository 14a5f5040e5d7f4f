"""jaxloop against nanoGPT on one machine, in one run, by turns: speed, and what the speed did to quality."""

import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from jaxloop.bench.nanogpt import Peer
from jaxloop.bench.speed import Bench, describe_machine, spread
from jaxloop.config.schema import Loop
from jaxloop.loop.interfaces import Task
from jaxloop.loop.keys import Purpose, host_generator
from jaxloop.loop.rows import row_count
from jaxloop.runs.environment import prepare
from jaxloop.systems.logic import measures
from jaxloop.systems.logic.language import language_of
from jaxloop.systems.logic.learners import transformer_learner
from jaxloop.systems.logic.settings import LogicConfig
from jaxloop.systems.logic.source import first_rows, held_out_rows
from jaxloop.systems.logic.vocabulary import VOCABULARY

# nanoGPT writes every sequence up to the context, so its time is proportional to their number.
_PEER_SEQUENCES = 250
_SAMPLED = 1000
_GENERATION_ROWS = 10_000


def against_nanogpt(config: LogicConfig, path: Path, repeats: int, say: Callable[[str], None]) -> dict:
    """Measure both programs by turns.

    Args:
      config: sizes, data, batch and steps of both.
      path: a checkout of nanoGPT.
      repeats: rounds of everything; also the seeds that quality is compared over.
      say: is told what is going on.

    Returns:
      Medians with their spread, and ratios: how many times faster jaxloop is, round by round.
    """
    prepare()
    machine = describe_machine()
    with Peer(path, config, machine["cores"]) as peer:
        results = {"machine": machine, "repeats": repeats, "config": config.model_dump(mode="json", exclude_none=True)}
        results |= _speed(config, peer, repeats, say)
        results |= _generations(config, peer, repeats, say)
    return results


def _speed(config: LogicConfig, peer: Peer, repeats: int, say: Callable[[str], None]) -> dict:
    """Training and sampling, a round each by turns."""
    config = config.model_copy(update={"cycle": config.cycle.model_copy(update={"rows": _SAMPLED})})
    full = len(jax.local_devices())
    round_steps = config.train.evaluate_every_steps
    one, many = (Bench(config, count, round_steps, repeats + 1) for count in (1, full))
    width = config.model.context_tokens
    batch_rows = max(1, round(one.tokens_per_step / width))
    peer.begin(0, first_rows(config, 0), batch_rows)
    peer_tokens = batch_rows * width
    rates = {"nanoGPT, all cores": [], "jaxloop, one loop": [], f"jaxloop, {full} loops": []}
    samples = {name: [] for name in rates}
    for turn in range(repeats + 1):
        say(f"training and sampling by turns, round {turn} of {repeats}{' (not counted)' if turn == 0 else ''}")
        rate = [peer_tokens * round_steps / peer.train(round_steps)]
        rate += [b.loop_count * b.tokens_per_step * round_steps / b.train_round() for b in (one, many)]
        sampled = [_PEER_SEQUENCES / peer.generate(_PEER_SEQUENCES, config.sample.temperature)]
        sampled += [b.loop_count * _SAMPLED / b.sample_round()[0] for b in (one, many)]
        if turn:
            for name, trained, written in zip(rates, rate, sampled, strict=True):
                rates[name].append(trained)
                samples[name].append(written)
    shape = one.learner.shape
    return {
        "row_tokens": shape.row_tokens,
        "useful_tokens_per_step": {"nanoGPT": peer_tokens, "jaxloop": one.tokens_per_step},
        "computed_positions_per_step": {"nanoGPT": peer_tokens, "jaxloop": one.positions_per_step},
        "training_useful_tokens_per_second": {name: spread(values) for name, values in rates.items()},
        "training_ratio": _ratios(rates),
        "samples_per_second": {name: spread(values) for name, values in samples.items()},
        "sampling_ratio": _ratios(samples),
    }


def _ratios(rates: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """How many times the first one's rate each of the others reached, round by round."""
    first, *others = rates
    return {
        name: spread([mine / theirs for mine, theirs in zip(rates[name], rates[first], strict=True)]) for name in others
    }


def _generations(config: LogicConfig, peer: Peer, repeats: int, say: Callable[[str], None]) -> dict:
    """A generation from its rows to its measures, a seed a round: seconds of both, and held-out nats."""
    full = len(jax.local_devices())
    cycle = config.cycle.model_copy(update={"rows": _GENERATION_ROWS, "generations": 1})
    train = config.train.model_copy(update={"patience_evaluations": 0})
    seeds = list(range(repeats - 1 + full))
    config = config.model_copy(update={"cycle": cycle, "train": train, "seeds": seeds, "grid": {}})
    width = config.model.context_tokens
    all_loops, learners = (
        [Loop(seed, seed, {}, config) for seed in seeds],
        {count: transformer_learner(config, count) for count in (1, full)},
    )
    drawn = [(first_rows(config, seed), held_out_rows(config, seed)) for seed in seeds]
    held_out = [learners[1].probe(held_out_HxT) for _, held_out_HxT in drawn]
    say("a generation from end to end: compiling")
    for learner in learners.values():
        learner.compile(all_loops[0], drawn[0][0], [held_out[0]])
    _measure(drawn[0][0])

    def ours(count: int, seed: int):
        """Seconds of a generation of so many loops at once: training, sampling, measuring, and all; the outcomes."""
        chosen = slice(seed, seed + count)
        training, probes = [rows for rows, _ in drawn[chosen]], [{"held_out": probe} for probe in held_out[chosen]]
        begun = time.perf_counter()
        tasks = [
            Task(loop, 0, rows, cycle.rows, asked)
            for loop, rows, asked in zip(all_loops[chosen], training, probes, strict=True)
        ]
        started = learners[count].start(tasks)
        outcomes, spent = learners[count].finish(started, lambda _: None)
        sampled = time.perf_counter()
        for outcome in outcomes:
            _measure(outcome.points)
        ended = time.perf_counter()
        return [spent.train, spent.sample, ended - sampled, ended - begun], outcomes

    names = "nanoGPT", "jaxloop, one loop", f"jaxloop, {full} loops, for each"
    seconds, parts, nats = {name: [] for name in names}, [], {"nanoGPT": [], "jaxloop": []}
    for seed, (rows_NxT, held_out_HxT) in enumerate(drawn[:repeats]):
        say(f"a generation from end to end by turns, round {seed + 1} of {repeats}: jaxloop")
        (*spent, one), (outcome,) = ours(1, seed)
        (*_, many), _ = ours(full, seed)
        parts.append(spent)
        nats["jaxloop"].append(float(-outcome.probed["held_out"][0].mean()))

        say(f"a generation from end to end by turns, round {seed + 1} of {repeats}: nanoGPT")
        split = host_generator(seed, Purpose.VALIDATION_SPLIT, 0)
        validation_rows = row_count(config.train.validation_share, _GENERATION_ROWS)
        peer_rows_NxT = rows_NxT[split.permutation(_GENERATION_ROWS)][: _GENERATION_ROWS - validation_rows]
        tokens = config.train.batch_expressions * (VOCABULARY.lengths(peer_rows_NxT).mean() + 1)
        peer.begin(seed, peer_rows_NxT, max(1, round(tokens / width)))
        trained = peer.train(config.train.steps)
        written = peer.generate(_PEER_SEQUENCES, config.sample.temperature) * _GENERATION_ROWS / _PEER_SEQUENCES
        nats["nanoGPT"].append(peer.held_out_nats(held_out_HxT))
        for name, value in zip(names, (trained + written + spent[-1], one, many / full), strict=True):
            seconds[name].append(value)
    difference = [mine / theirs - 1 for mine, theirs in zip(nats["jaxloop"], nats["nanoGPT"], strict=True)]
    return {
        "generation_seconds": {name: spread(values) for name, values in seconds.items()},
        "generation_parts_seconds": dict(
            zip(("training", "sampling", "measuring"), np.median(parts, axis=0).tolist(), strict=True)
        ),
        "generation_ratio": _ratios({name: [1 / value for value in values] for name, values in seconds.items()}),
        "held_out_nats": {name: spread(values) for name, values in nats.items()},
        "held_out_nats_mean": {name: float(np.mean(values)) for name, values in nats.items()},
        "held_out_nats_by_seed": nats,
        "held_out_nats_difference_share": spread(difference),
        "source_entropy_nats": language_of(config.language).entropy_nats,
    }


def _measure(rows_NxT: np.ndarray) -> None:
    """What the end-to-end comparison measures of the samples of both."""
    measures.verdicts(rows_NxT)
    measures.diversity(rows_NxT)
