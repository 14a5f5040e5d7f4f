"""Where real rows come from, against sums over the enumerated language."""

import functools
import math

import numpy as np
import pytest
from tiny import tiny_config

from jaxloop.loop.keys import Purpose, host_generator
from jaxloop.systems.logic.language import language_of
from jaxloop.systems.logic.source import first_rows, fresh_rows, held_out_rows

ROWS = 20_000


def config_of(share=1.0, min_depth=1, only_true=True, rows=ROWS):
    return tiny_config(
        f"cycle.first_mass_share={share}",
        f"language.min_depth={min_depth}",
        f"language.only_true={str(only_true).lower()}",
        f"cycle.rows={rows}",
    )


@functools.cache
def enumerated(min_depth, only_true):
    """(every expression of depth 2 with its tokens as bytes, its probability), the most probable first."""
    config = config_of(min_depth=min_depth, only_true=only_true)
    rows = language_of(config.language).enumerate(config.model.context_tokens)
    probability = np.exp(language_of(config.language).log_prob(rows))
    order = np.argsort(-probability, kind="stable")
    order = order[probability[order] > 0]
    return [rows[place].tobytes() for place in order], probability[order]


def levels_of(probability):
    """(probability of an expression, mass of all those of this probability) of each level, the greatest first."""
    values, counts = np.unique(np.round(probability, 12), return_counts=True)
    return [(value, value * count) for value, count in zip(values[::-1], counts[::-1], strict=True)]


def truncated(probability, share):
    """The distribution of the most probable expressions of so much mass: level after level is filled until it is."""
    kept, left = np.zeros_like(probability), share
    for value, mass in levels_of(probability):
        inside = np.isclose(probability, value, rtol=1e-9)
        part = min(1.0, left / mass)
        kept[inside] = part * probability[inside]
        left -= part * mass
        if left <= 1e-12:
            break
    return kept / kept.sum()


def counts_of(rows, texts):
    """How often each expression occurs, and how many rows are none of them."""
    place = {text: number for number, text in enumerate(texts)}
    found = np.zeros(len(texts), int)
    strange = 0
    for row in rows:
        number = place.get(row.tobytes())
        if number is None:
            strange += 1
        else:
            found[number] += 1
    return found, strange


def assert_distribution(rows, texts, expected):
    """Rows against exact probabilities: nothing outside, and chi-square within five standard deviations."""
    found, strange = counts_of(rows, texts)
    assert strange == 0
    assert not found[expected == 0].any()
    wanted = len(rows) * expected[expected > 0]
    chi_square, freedom = np.sum((found[expected > 0] - wanted) ** 2 / wanted), max(len(wanted) - 1, 1)
    # A multinomial's chi-square has this variance exactly, however rare some expressions are.
    variance = 2 * (freedom - freedom / len(rows)) + np.sum(1 / wanted) if len(wanted) > 1 else 1
    assert abs(chi_square - (len(wanted) - 1)) < 5 * math.sqrt(variance)


LANGUAGES = [(1, True), (1, False), (0, True), (2, False)]


@pytest.mark.parametrize(("min_depth", "only_true"), LANGUAGES)
@pytest.mark.parametrize(("share", "rows"), [(0.01, 1000), (0.1, 4000), (0.25, ROWS), (0.5, ROWS), (0.9, ROWS)])
def test_first_rows_are_the_source_cut_off(min_depth, only_true, share, rows):
    """Catches a border at the wrong mass, improbable expressions that slip through, and a changed order of size."""
    texts, probability = enumerated(min_depth, only_true)
    expected = truncated(probability, share)
    assert_distribution(first_rows(config_of(share, min_depth, only_true, rows), 3), texts, expected)


@pytest.mark.parametrize(("min_depth", "only_true"), LANGUAGES[:3])
@pytest.mark.parametrize("filled", [0.5, 0.999_999, 1.0, 1.000_001, 1.5])
def test_border_within_a_level_and_between_levels(min_depth, only_true, filled):
    """Catches a level that is taken whole or not at all where the border falls inside it, or beside it."""
    texts, probability = enumerated(min_depth, only_true)
    (_, first), (_, second) = levels_of(probability)[:2]
    share = first * min(filled, 1) + second * max(filled - 1, 0)
    rows = first_rows(config_of(share, min_depth, only_true), 5)
    assert_distribution(rows, texts, truncated(probability, share))
    # The first level has its part of the rows, and the second one what that leaves.
    found, _ = counts_of(rows, texts)
    in_first = np.isclose(probability, probability[0], rtol=1e-9)
    part = min(first / share, 1)
    assert abs(found[in_first].sum() - ROWS * part) <= 5 * math.sqrt(ROWS * part * (1 - part)) + 1e-6 * ROWS


def test_the_least_share_gives_the_most_probable_level_only():
    """Catches a share that is counted in expressions and not in mass: a hundredth of 150 would be two of them."""
    texts, probability = enumerated(1, True)
    found, _ = counts_of(first_rows(config_of(0.01, rows=1000), 0), texts)
    assert found.sum() == 1000
    np.testing.assert_array_equal(found > 0, np.isclose(probability, probability[0], rtol=1e-9))


@pytest.mark.parametrize("rows", [10, 1000])
def test_a_share_of_one_draws_the_whole_source_as_ever(rows):
    """Catches a whole source that is drawn in another way: every earlier result would change."""
    config = config_of(rows=rows)
    drawn = language_of(config.language).draw(host_generator(4, Purpose.REAL_ROWS), rows, config.model.context_tokens)
    np.testing.assert_array_equal(first_rows(config, 4), drawn)
    assert_distribution(first_rows(config_of(), 4), *enumerated(1, True))


@pytest.mark.parametrize("share", [0.3, 0.97, 1.0])
@pytest.mark.parametrize("rows", [10, 333])
def test_first_rows_follow_from_the_seed(share, rows):
    """Catches too few or too many rows, another width, and randomness that is not the seed's: nothing would resume."""
    found = first_rows(config_of(share, rows=rows), 7)
    assert (found.shape, found.dtype) == ((rows, 16), np.uint8)
    np.testing.assert_array_equal(found, first_rows(config_of(share, rows=rows), 7))
    assert not np.array_equal(found, first_rows(config_of(share, rows=rows), 8))


def test_fresh_and_held_out_rows_are_of_the_whole_language():
    """Catches a restriction of the first rows that reaches the fresh ones, which are to bring back what is missing."""
    whole, cut = config_of(), config_of(0.2)
    fresh, held_out = fresh_rows(cut, 3, 2, ROWS), held_out_rows(cut, 3)
    np.testing.assert_array_equal(fresh, fresh_rows(whole, 3, 2, ROWS))
    np.testing.assert_array_equal(held_out, held_out_rows(whole, 3))
    assert_distribution(fresh, *enumerated(1, True))
    assert len(held_out) == cut.measure.held_out_rows
    many = tiny_config("cycle.first_mass_share=0.2", f"measure.held_out_rows={ROWS}")
    assert_distribution(held_out_rows(many, 3), *enumerated(1, True))


def test_rows_of_different_purpose_seed_and_generation_differ():
    """Catches held-out rows that a model trains on, and the same fresh rows at every generation."""
    config = tiny_config("measure.held_out_rows=60")
    kinds = [first_rows(config, 3), held_out_rows(config, 3), held_out_rows(config, 4)]
    kinds += [fresh_rows(config, seed, generation, 60) for seed, generation in ((3, 1), (3, 2), (4, 1))]
    assert len({rows.tobytes() for rows in kinds}) == len(kinds)
