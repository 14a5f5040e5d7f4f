"""Packing: every expression once, whole, shifted by one, with little padding."""

from collections import Counter

import numpy as np
import pytest

from jaxloop.language import Language
from jaxloop.packing import NO_TARGET, batch_order, pack
from jaxloop.vocabulary import EOS, lengths


def rows_of_lengths(length_N, width, seed=0):
    """Rows of random tokens with these lengths; a length of `width` is a row without `<eos>`."""
    rows = np.random.default_rng(seed).integers(EOS, size=(len(length_N), width)).astype(np.uint8)
    rows[np.arange(width) >= np.asarray(length_N)[:, None]] = EOS
    rows.flags.writeable = False
    return rows


def expected_targets(tokens_NxT):
    """What each row must be trained on: its tokens, and `<eos>` where it has one."""
    width = tokens_NxT.shape[1]
    return Counter(
        bytes(row[: min(length + 1, width)]) for row, length in zip(tokens_NxT, lengths(tokens_NxT), strict=True)
    )


def packed_targets(packed):
    """The targets of every packed expression, found from where the inputs start anew; checks the shift by one."""
    found = Counter()
    for inputs, targets in zip(packed.inputs_PxL, packed.targets_PxL, strict=True):
        used = int((targets != NO_TARGET).sum())
        assert (targets[:used] != NO_TARGET).all()  # padding at the end only
        assert (inputs[used:] == EOS).all()
        starts = np.flatnonzero(inputs[:used] == EOS)
        assert used == 0 or starts[0] == 0
        for start, stop in zip(starts, [*starts, used][1:], strict=True):
            assert inputs[start + 1 : stop].tolist() == targets[start : stop - 1].tolist()
            assert EOS not in targets[start : stop - 1]
            found[bytes(targets[start:stop])] += 1
    return found


def corpora():
    generator = np.random.default_rng(3)
    width = 12
    mixed = generator.integers(width + 1, size=200)
    for name, length_N in {
        "mixed": mixed,
        "repeated": np.repeat(mixed[:5], 20),
        "empty": np.zeros(40, int),
        "cut_off": np.full(40, width),
        "just_ended": np.full(40, width - 1),
        "cut_off_or_empty": np.tile([0, width], 30),
        "one_row": np.array([4]),
    }.items():
        for row_tokens in (width, width + 1, 2 * width, 5 * width - 1):
            yield pytest.param(rows_of_lengths(length_N, width), row_tokens, id=f"{name}-{row_tokens}")
    for depth, row_tokens in ((3, 64), (5, 128)):
        drawn = Language(max_depth=depth).draw(np.random.default_rng(depth), 300)
        yield pytest.param(drawn, row_tokens, id=f"depth_{depth}")


@pytest.mark.parametrize(("tokens_NxT", "row_tokens"), list(corpora()))
def test_every_expression_is_packed_once_and_whole(tokens_NxT, row_tokens):
    """Catches expressions that are lost, doubled, cut, overwritten by a neighbour, or shifted wrongly."""
    packed = pack(tokens_NxT, row_tokens, len(tokens_NxT))
    assert packed_targets(packed) == expected_targets(tokens_NxT)
    assert packed.expression_count == len(tokens_NxT)


@pytest.mark.parametrize(("tokens_NxT", "row_tokens"), list(corpora()))
def test_padding_is_all_that_has_no_target(tokens_NxT, row_tokens):
    """Catches a loss over padding, tokens without a loss, and rows past the count that hold something."""
    capacity = len(tokens_NxT) + 3
    packed = pack(tokens_NxT, row_tokens, capacity)
    assert packed.inputs_PxL.shape == packed.targets_PxL.shape == (capacity, row_tokens)
    assert packed.inputs_PxL.dtype == packed.targets_PxL.dtype == np.uint8
    assert (packed.inputs_PxL <= EOS).all()
    trained = packed.targets_PxL != NO_TARGET
    assert trained.sum() == sum(len(targets) * count for targets, count in expected_targets(tokens_NxT).items())
    assert trained[: packed.row_count].any(axis=1).all()
    assert not trained[packed.row_count :].any()
    assert (packed.inputs_PxL[~trained] == EOS).all()


def test_worked_example():
    """Catches a shift in the wrong direction, in the smallest case there is: `( not True )` and a cut-off row."""
    ended = pack(np.array([[0, 2, 5, 1, EOS, EOS]], np.uint8), 7, 1)
    assert ended.inputs_PxL.tolist() == [[EOS, 0, 2, 5, 1, EOS, EOS]]
    assert ended.targets_PxL.tolist() == [[0, 2, 5, 1, EOS, NO_TARGET, NO_TARGET]]
    cut_off = pack(np.array([[0, 2, 5]], np.uint8), 4, 1)
    assert cut_off.inputs_PxL.tolist() == [[EOS, 0, 2, EOS]]
    assert cut_off.targets_PxL.tolist() == [[0, 2, 5, NO_TARGET]]


def test_cut_off_row_has_no_eos_target():
    """Catches an invented `<eos>`: the model would learn to stop where the context happened to end."""
    tokens_NxT = rows_of_lengths([10] * 25, 10)
    packed = pack(tokens_NxT, 40, 25)
    assert not (packed.targets_PxL == EOS).any()
    assert (packed.targets_PxL != NO_TARGET).sum() == 250


def test_empty_expression_is_packed():
    """Catches empty samples that are dropped: each must be an `<eos>` that predicts `<eos>`."""
    tokens_NxT = rows_of_lengths([0, 3, 0, 9, 0], 10)
    assert packed_targets(pack(tokens_NxT, 10, 5))[bytes([EOS])] == 3


@pytest.mark.parametrize(("max_depth", "row_tokens"), [(3, 64), (5, 128)])
@pytest.mark.parametrize("seed", [0, 1])
def test_useful_share(max_depth, row_tokens, seed):
    """Catches a packing that wastes computation on padding."""
    tokens_NxT = Language(max_depth=max_depth).draw(np.random.default_rng(seed), 2000)
    packed = pack(tokens_NxT, row_tokens, 2000)
    useful = (packed.targets_PxL != NO_TARGET).sum()
    assert useful == np.minimum(lengths(tokens_NxT) + 1, tokens_NxT.shape[1]).sum()
    assert useful / (packed.row_count * row_tokens) >= 0.95


@pytest.mark.parametrize("length", [0, 5, 6, 10, 11, 12])
@pytest.mark.parametrize("row_tokens", [12, 13, 23, 24])
def test_capacity_of_a_row_each_suffices(length, row_tokens):
    """Catches rows past the capacity, with as many rows as can be needed: each expression fills one."""
    packed = pack(rows_of_lengths([length] * 30, 12), row_tokens, 30)
    in_a_row = row_tokens // min(length + 1, 12)
    assert packed.row_count == -(-30 // in_a_row) <= 30


BATCHES = [(7, 10, 3), (1, 5, 4), (50, 1, 8), (64, 40, 16), (13, 13, 13), (1000, 3, 1)]


@pytest.mark.parametrize(("row_count", "steps", "batch_rows"), BATCHES)
def test_batch_order_visits_rows_equally(row_count, steps, batch_rows):
    """Catches draws with replacement, padding rows in a batch, and an epoch that skips or repeats a row."""
    order_SxB = batch_order(np.random.default_rng(5), row_count, steps, batch_rows)
    assert order_SxB.shape == (steps, batch_rows)
    assert order_SxB.dtype == np.int32
    visits = np.bincount(order_SxB.reshape(-1), minlength=row_count)
    assert len(visits) == row_count
    assert visits.max() - visits.min() <= 1
    for start in range(0, order_SxB.size, row_count):
        epoch = order_SxB.reshape(-1)[start : start + row_count]
        assert len(set(epoch.tolist())) == len(epoch)


def test_batch_order_shuffles_each_epoch_anew():
    """Catches one order that is repeated each epoch, or none at all, and randomness from anywhere but the generator."""
    epochs = batch_order(np.random.default_rng(1), 40, 10, 40).tolist()
    assert len({tuple(epoch) for epoch in [*epochs, list(range(40))]}) == 11
    assert batch_order(np.random.default_rng(1), 40, 10, 40).tolist() == epochs
    assert batch_order(np.random.default_rng(2), 40, 10, 40).tolist() != epochs


def test_batch_order_has_no_favourite_place():
    """Catches a shuffle that is not uniform: each row must stand first equally often (chi-square, 7 degrees)."""
    generator = np.random.default_rng(11)
    firsts = np.bincount([batch_order(generator, 8, 1, 8)[0, 0] for _ in range(1600)], minlength=8)
    assert ((firsts - 200) ** 2 / 200).sum() < 30  # exceeded with probability 1e-4
