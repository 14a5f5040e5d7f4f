"""The measurements of `jaxloop bench`: what is counted, by what it is divided, and what is refused."""

import io
import json
import math

import jax
import numpy as np
import pytest
from rich.console import Console

from jaxloop.bench import nanogpt, scaling, speed
from jaxloop.commands.printing import show_measurements
from jaxloop.config.presets import load
from jaxloop.errors import InputError, RunError
from jaxloop.learners.transformer.costs import operations_per_position
from jaxloop.systems.logic.vocabulary import EOS, VOCABULARY
from tests.tiny import SETTINGS


@pytest.fixture(scope="module")
def results():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "_MEASURED_SAMPLES", 300)
        patch.setattr(speed, "_ROUND_SECONDS", 0.1)
        return speed.bench(load("bench", SETTINGS), 2, lambda line: None)


def test_rates_fit_together(results):
    """Catches a rate that counts padding, forgets the number of loops, or divides by another time."""
    for count in (1, len(jax.devices())):
        part = results[f"loops_{count}"]
        training = part["training"]
        fastest_seconds = training["milliseconds_per_step"]["least"] / 1e3
        expected = count * training["useful_tokens_per_step"] / fastest_seconds
        assert training["useful_tokens_per_second"]["greatest"] == pytest.approx(expected)
        per_sample = part["sampling"]["tokens_per_second"]["median"] / part["sampling"]["samples_per_second"]["median"]
        assert 1 <= per_sample <= results["config"]["model"]["context_tokens"]
        assert 0 <= part["sampling"]["wasted_decode_share"] < 1
        assert all(seconds > 0 for seconds in part["compile_seconds"].values())
    assert results["peak_memory_bytes"] > 50e6


def test_compiling_takes_nothing_from_earlier_starts_and_sampling_is_of_the_newest_model():
    """Catches seconds of reading a cache, and samples of parameters that a look without rows has chosen."""
    subject = speed.Bench(load("bench", SETTINGS), 1, 2, 3)
    subject.without_looks()
    before = subject.train_round() and np.asarray(jax.tree.leaves(subject.state.parameters)[0])
    sampled = []
    sample_rows = subject.learner.sample_rows
    subject.learner.sample_rows = lambda parameters, group: sampled.append(parameters) or sample_rows(parameters, group)
    subject.train_round()
    subject.sample_round()
    after = np.asarray(jax.tree.leaves(sampled[0])[0])
    np.testing.assert_array_equal(after, jax.tree.leaves(subject.state.parameters)[0])
    assert not np.array_equal(before, after)

    hits = []
    jax.monitoring.register_event_listener(lambda event, **_: hits.append(event) if "cache_hit" in event else None)
    jax.jit(lambda: 1).lower().compile()  # a first look at the cache, which JAX remembers
    hits.clear()
    assert set(subject.compile_seconds()) == {"begin", "train", "sample", "score"}
    assert hits == []


def test_results_are_json_and_a_table(results):
    """Catches an array or a number type in the results that JSON cannot say, and a section that the table drops."""
    assert json.loads(json.dumps(results)) == results
    console = Console(width=120, record=True, file=io.StringIO())
    show_measurements(results, console)
    text = console.export_text()
    for section in results:
        assert section == "config" or section.replace("_", " ") in text


def test_floating_point_operations_by_hand():
    """Catches a share of the ceiling that is two or three times too high: here every product is counted by hand."""
    config = load("bench", ["model.width=8", "model.heads=2", "model.layers=3"])
    width, layers, row = 8, 3, 128
    products = layers * (3 * width * width + width * width + 2 * 4 * width * width) + 8 * width
    products += layers * 2 * row * width  # queries by keys, and weights by values, for each of the row's positions
    assert operations_per_position(config, VOCABULARY, row) == 2 * products * 3


@pytest.mark.parametrize("exponent", [0.0, 1.0, 1.7])
def test_scaling_fits_the_exponent(monkeypatch, exponent):
    """Catches a fit with its axes exchanged, and seconds of a run taken for seconds of a generation."""

    def cost(config):
        seconds = config.cycle.rows**exponent * (config.cycle.generations - 1)
        return {"seconds": seconds, "generations": config.cycle.generations - 1, "peak_bytes": 1e6}

    monkeypatch.setattr(scaling, "_cost", cost)
    axes = scaling.scaling("bench", [], lambda line: None)["axes"]
    assert axes["n, rows a generation"]["seconds_exponent"] == pytest.approx(exponent, abs=1e-6)
    assert axes["generations"]["seconds_exponent"] == pytest.approx(1)
    assert all(abs(axis["memory_exponent"]) < 1e-6 for axis in axes.values())
    for axis in scaling.AXES.values():
        assert max(axis) >= 16 * min(axis)


def test_every_point_of_the_scaling_table_is_a_valid_config():
    """Catches a point that a range of the schema refuses, found only after minutes of measuring."""
    for points in scaling.AXES.values():
        for changes in points.values():
            load("bench", [*scaling._BASE, *changes])


def test_scaling_runs_a_config_in_its_own_process():
    """Catches a child that cannot start, or that counts the generation in which it compiles."""
    cost = scaling._cost(load("bench", [*SETTINGS, "cycle.generations=3"]))
    assert cost["generations"] == 2
    assert 0 < cost["seconds"] < 100
    assert cost["peak_bytes"] > 50e6


def test_peer_reads_one_stream_of_the_same_rows(tmp_path, monkeypatch):
    """Catches a peer that is given other data: a stream without `<eos>` between expressions, or with padding."""
    (tmp_path / "model.py").write_text("")
    asked = []
    monkeypatch.setattr(nanogpt.Peer, "__init__", lambda self: None)
    monkeypatch.setattr(nanogpt.Peer, "_ask", lambda self, what, **arguments: asked.append((what, arguments)))
    rows = np.array([[0, 5, 1, EOS, EOS], [5, EOS, EOS, EOS, EOS], [1, 1, 1, 1, 1]], np.uint8)
    nanogpt.Peer().begin(3, rows, 2)
    assert asked == [("begin", {"seed": 3, "stream": [EOS, 0, 5, 1, EOS, 5, EOS, 1, 1, 1, 1, 1, EOS], "batch_rows": 2})]


def test_peer_refuses_what_is_no_checkout(tmp_path):
    """Catches a traceback where the path is wrong."""
    with pytest.raises(InputError, match=r"no model\.py there"):
        nanogpt.Peer(tmp_path, load("bench"), 1)


_MODEL = '''
import torch
class GPTConfig:
    def __init__(self, **sizes):
        self.__dict__.update(sizes)
class GPT(torch.nn.Module):
    """Uniform over the vocabulary, whatever it reads; notes how it was called."""
    def __init__(self, sizes):
        super().__init__()
        self.sizes, self.zero = sizes, torch.nn.Parameter(torch.zeros(1))
    def configure_optimizers(self, weight_decay, learning_rate, betas, device):
        print("noise on standard output")
        return torch.optim.SGD(self.parameters(), learning_rate)
    def forward(self, inputs, targets):
        logits = self.zero * torch.zeros(*inputs.shape, self.sizes.vocab_size)
        flat = logits.view(-1, self.sizes.vocab_size)
        return logits, torch.nn.functional.cross_entropy(flat, targets.reshape(-1), ignore_index=-1)
    def generate(self, start, new_tokens, temperature):
        assert start.shape[1] + new_tokens == self.sizes.block_size
        return start
'''


def test_peer_is_asked_and_answers(tmp_path):
    """Catches a broken conversation, and nats without `<eos>` or with padding: uniform is log 8 a token."""
    pytest.importorskip("torch")
    (tmp_path / "model.py").write_text(_MODEL)
    rows = np.array([[0, 5, 1, EOS, EOS], [5, EOS, EOS, EOS, EOS]] * 20, np.uint8)
    config = load("bench", SETTINGS)
    with nanogpt.Peer(tmp_path, config, 1) as other:
        other.begin(0, np.pad(rows, ((0, 0), (0, 11)), constant_values=EOS), 2)
        assert other.train(2) > 0
        assert other.generate(3, 0.8) > 0
        assert other.held_out_nats(rows) == pytest.approx(3 * math.log(8), rel=1e-5)


def test_peer_that_fails_says_why_in_one_line(tmp_path):
    """Catches the traceback of somebody else's program."""
    pytest.importorskip("torch")
    (tmp_path / "model.py").write_text("raise ValueError('no such thing')\n")
    with pytest.raises(RunError, match=r"settings: ValueError: no such thing$"):
        nanogpt.Peer(tmp_path, load("bench", SETTINGS), 1)
