"""Memories: closed forms of what trains each generation, with rows that say themselves where they come from."""

import functools
import math
from collections import Counter

import numpy as np
import pytest

from jaxloop.config.schema import CycleSettings
from jaxloop.loop import memories
from jaxloop.loop.rows import FRESH, KINDS, REAL, SAMPLED, provenance_counts, row_count

GENERATIONS, ROWS = 10, 60


def tagged(kind, generation, count):
    """Rows whose tokens say what they are: (kind, generation, number, number), read-only."""
    number = np.arange(count)
    columns = [np.full(count, kind), np.full(count, generation), number // 256, number % 256]
    rows = np.stack(columns, axis=1).astype(np.uint8)
    rows.flags.writeable = False
    return rows


def tags(rows):
    """(kind, generation, number) of each row, from its tokens alone."""
    kind, generation, high, low = rows.points.astype(int).T
    return list(zip(kind.tolist(), generation.tolist(), (256 * high + low).tolist(), strict=True))


def sources(rows):
    """How many rows of each (kind, generation), from the tokens alone."""
    return Counter(tag[:2] for tag in tags(rows))


def settings_of(name, fresh=None, generated=None, rows=ROWS):
    return CycleSettings(name=name, rows=rows, fresh_share=fresh, generated_share=generated)


def step(settings, carry, generation, seed):
    return memories.following(
        settings,
        carry,
        generation,
        tagged(SAMPLED, generation - 1, settings.rows),
        lambda count, beside: tagged(FRESH, generation, count),
        np.random.default_rng([seed, generation]),
    )


@functools.cache
def history(settings, seed=0, generations=GENERATIONS):
    """The carries of generation 0 to the last."""
    carries = [memories.first(settings, tagged(REAL, 0, settings.rows))]
    for generation in range(1, generations + 1):
        carries.append(step(settings, carries[-1], generation, seed))
    return carries


ALL = [
    settings_of(name, fresh, generated, rows)
    for rows in (ROWS, 47)  # 47 divides by none of the parts
    for name, generated_shares in {
        "full_synthetic": (None,),
        "balanced": (None,),
        "incremental": (None, 0.0, 0.1, 0.9, 1.0),
        "expanding": (None,),
        "window": (None,),
        "subsampled": (None,),
        "fixed_real": (None,),
    }.items()
    for fresh in (None, 0.0, 0.1, 0.5, 1.0)
    for generated in generated_shares
]


def label(settings):
    return f"{settings.name}-{settings.rows}-f{settings.fresh_share}-g{settings.generated_share}"


every_cycle = pytest.mark.parametrize("settings", ALL, ids=label)


@every_cycle
def test_provenance_is_that_of_the_tokens(settings):
    """Catches tokens and provenance that are taken, joined or sorted apart from each other."""
    for generation, carry in enumerate(history(settings)):
        for rows in carry:
            stated = list(zip(rows.kind_N.tolist(), rows.generation_N.tolist(), strict=True))
            assert stated == [tag[:2] for tag in tags(rows)]
            assert (rows.points.dtype, rows.kind_N.dtype, rows.generation_N.dtype) == (np.uint8, np.uint8, np.int32)
        for kind, source in sources(carry.training):
            assert {REAL: source == 0, FRESH: 1 <= source <= generation, SAMPLED: 0 <= source < generation}[kind]


@every_cycle
def test_sizes(settings):
    """Catches a generation with too few or too many rows: shapes, and what a checkpoint may hold, are fixed by them."""
    memory = memories.memory_of(settings)
    for generation, carry in enumerate(history(settings)):
        sets = {"expanding": generation + 1, "window": min(generation + 1, 3), "fixed_real": min(generation + 1, 2)}
        assert memory.training_rows(generation) == settings.rows * sets.get(settings.name, 1)
        assert len(carry.training.points) == len(carry.training.kind_N) == memory.training_rows(generation)
        archived = generation + 1 if settings.name in ("balanced", "subsampled") else 0
        assert len(carry.archive.points) == memory.archived_rows(generation) == settings.rows * archived


@every_cycle
def test_no_row_is_drawn_twice(settings):
    """Catches a draw with replacement, or the same rows taken twice: every row of this world exists once."""
    for carry in history(settings):
        for rows in carry:
            assert len(set(tags(rows))) == len(tags(rows))


@every_cycle
def test_callers_arrays_are_not_changed(settings):
    """Catches work in place, which would change earlier generations that are measured later."""
    carry = history(settings)[3]
    for field in (*carry.training, *carry.archive):
        field.flags.writeable = False  # and the sampled and fresh rows are read-only from the start
    before = [tags(rows) for rows in carry]
    step(settings, carry, 4, seed=0)
    assert [tags(rows) for rows in carry] == before


@every_cycle
def test_provenance_counts(settings):
    """Catches a table of provenance that loses rows, confuses kinds, or is not in order."""
    for carry in history(settings):
        table = provenance_counts(carry.training)
        assert sum(count for _, _, count in table) == len(carry.training.kind_N)
        found = [((KINDS.index(kind), generation), count) for kind, generation, count in table]
        assert found == sorted(sources(carry.training).items())


@every_cycle
def test_same_generator_same_rows(settings):
    """Catches randomness from elsewhere than the generator: a resumed loop would go another way."""
    again = history.__wrapped__(settings)
    assert [tags(carry.training) for carry in again] == [tags(carry.training) for carry in history(settings)]


@every_cycle
def test_fresh_rows_are_asked_for_once(settings):
    """Catches fresh rows that are drawn twice (the same ones, from the same key) or dropped after drawing."""
    carry, asked = history(settings)[4], []

    def draw_fresh(count, beside):
        asked.append(int(count))
        return tagged(FRESH, 5, count)

    sampled = tagged(SAMPLED, 4, settings.rows)
    after = memories.following(settings, carry, 5, sampled, draw_fresh, np.random.default_rng(0))
    assert len(asked) <= 1
    held = after.archive if settings.name == "subsampled" else after.training
    assert sum(asked) == sources(held)[FRESH, 5]


def new_counts(settings, generation):
    """(sampled, fresh) rows among the new ones of a generation."""
    found = sources(history(settings)[generation].training)
    return found[SAMPLED, generation - 1], found[FRESH, generation]


@pytest.mark.parametrize("fresh", [0.0, 0.25, 0.5, 0.9, 1.0])
def test_full_synthetic_holds_new_rows_only(fresh):
    """Catches real or older rows that survive, and a fresh share of the wrong size."""
    settings = settings_of("full_synthetic", fresh)
    for generation, carry in enumerate(history(settings)[1:], start=1):
        assert set(sources(carry.training)) <= {(SAMPLED, generation - 1), (FRESH, generation)}
        assert new_counts(settings, generation) == (round((1 - fresh) * ROWS), round(fresh * ROWS))


@pytest.mark.parametrize("fresh", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("rows", [60, 47, 10])
def test_balanced_has_equal_parts(fresh, rows):
    """Catches a source that is left out or too large: each has n / (t + 1) rows, to within one."""
    settings = settings_of("balanced", fresh, rows=rows)
    for generation, carry in enumerate(history(settings)):
        found, part = sources(carry.training), rows / (generation + 1)
        parts = [found[REAL, 0], *(found[SAMPLED, source] for source in range(generation - 1))]
        if generation:
            sampled, fresh_rows = new_counts(settings, generation)
            assert abs(fresh_rows - fresh * (sampled + fresh_rows)) <= 0.5
            parts.append(sampled + fresh_rows)
        assert set(parts) <= {math.floor(part), math.ceil(part)}
        assert sum(parts) == rows


@pytest.mark.parametrize("generation", [2, 3, 6])
def test_balanced_remainder_goes_by_lot(generation):
    """Catches a remainder that always goes to the same sources: each has the same expected size over seeds."""
    rows, seeds, parts = 11, 600, generation + 1
    settings = settings_of("balanced", rows=rows)
    before = history(settings)[generation - 1]
    total = sum((sources(step(settings, before, generation, seed).training) for seed in range(seeds)), Counter())
    lot = rows % parts / parts  # chance of one row more
    assert lot > 0
    for source in [(REAL, 0), *((SAMPLED, older) for older in range(generation))]:
        assert abs(total[source] - seeds * rows / parts) < 4 * math.sqrt(seeds * lot * (1 - lot))


def test_balanced_archive_keeps_every_sample():
    """Catches an archive that loses rows or holds them in another order: later generations draw from it."""
    for generation, carry in enumerate(history(settings_of("balanced", 0.5))):
        expected = [(REAL, 0), *((SAMPLED, source) for source in range(generation))]
        assert tags(carry.archive) == [(*source, number) for source in expected for number in range(ROWS)]


@pytest.mark.parametrize("name", ["balanced", "incremental"])
def test_older_rows_are_drawn_uniformly(name):
    """Catches a draw that favours the first rows of a source."""
    settings, seeds = settings_of(name), 800
    before = history(settings)[0]
    kept = Counter()
    for seed in range(seeds):
        kept.update(number for kind, _, number in tags(step(settings, before, 1, seed).training) if kind == REAL)
    # Either cycle keeps half of the real rows; drawing without replacement makes the sum of squares smaller still.
    deviation = [(kept[number] - seeds / 2) / math.sqrt(seeds / 4) for number in range(ROWS)]
    assert max(map(abs, deviation)) < 4.5
    assert sum(value**2 for value in deviation) < 110  # chi-square, 60 degrees: exceeded with probability 1e-4


@pytest.mark.parametrize("fresh", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("generated", [0.0, 0.1, 0.25, 0.5, 0.9, 1.0])
def test_incremental_keeps_rows_of_the_generation_before(fresh, generated):
    """Catches a wrong number of new rows, and kept rows that were not in the generation before."""
    settings = settings_of("incremental", fresh, generated)
    carries, new = history(settings), round(generated * ROWS)
    for generation in range(1, GENERATIONS + 1):
        sampled, fresh_rows = new_counts(settings, generation)
        assert sampled + fresh_rows == new
        assert abs(fresh_rows - fresh * new) <= 0.5
        kept = set(tags(carries[generation].training)) & set(tags(carries[generation - 1].training))
        assert len(kept) == ROWS - new


@pytest.mark.parametrize("generated", [0.1, 0.25, 0.5])
def test_incremental_real_share_is_geometric(generated):
    """Catches kept rows that are not a fair draw: real rows number (1 - g)^t n, with the variance of the draws."""
    seeds, new = 400, round(generated * ROWS)
    settings = settings_of("incremental", generated=generated)
    real = [
        [np.count_nonzero(carry.training.kind_N == REAL) for carry in history.__wrapped__(settings, seed)]
        for seed in range(seeds)
    ]
    # Real rows are hypergeometric at every generation, given their number at the one before.
    kept, mean, variance = ROWS - new, float(ROWS), 0.0
    for found in np.array(real).T[1:]:
        spread = mean * (ROWS - mean) - variance  # E[X (n - X)]
        variance = kept * new / (ROWS**2 * (ROWS - 1)) * spread + (kept / ROWS) ** 2 * variance
        mean *= kept / ROWS
        assert abs(found.mean() - mean) <= 4 * math.sqrt(variance / seeds) + 1e-9
        assert found.var() == pytest.approx(variance, rel=0.35, abs=0.02)
    assert mean == pytest.approx((1 - generated) ** GENERATIONS * ROWS)


@pytest.mark.parametrize("generated", [0.0, 0.25, 0.5, 0.9, 1.0])
def test_expanding_adds_exact_shares(generated):
    """Catches rows that are lost from earlier generations, and shares other than g n sampled and (1 - g) n fresh."""
    settings = settings_of("expanding", generated=generated)
    carries, sampled = history(settings), round(generated * ROWS)
    for generation, carry in enumerate(carries):
        expected = Counter({(REAL, 0): ROWS})
        for source in range(generation):
            expected.update({(SAMPLED, source): sampled, (FRESH, source + 1): ROWS - sampled})
        assert sources(carry.training) == +expected
        assert np.mean(carry.training.kind_N == REAL) == pytest.approx(1 / (generation + 1), rel=1e-12)
        assert generation == 0 or set(tags(carries[generation - 1].training)) < set(tags(carry.training))


@pytest.mark.parametrize("name", sorted(set(memories.MEMORIES) - {"incremental"}))
def test_generated_share_is_the_rest_of_the_fresh_share(name):
    """Catches two names for the same knob that mean different things."""
    by_fresh, by_generated, by_both = (
        [tags(carry.training) for carry in history(settings_of(name, *shares))]
        for shares in ((0.25, None), (None, 0.75), (0.25, 0.75))
    )
    assert by_fresh == by_generated == by_both


@pytest.mark.parametrize("name", sorted(set(memories.MEMORIES) - {"balanced"}))
def test_fresh_share_of_one_admits_no_sampled_row(name):
    """Catches a sampled row in the control that is trained on real data only."""
    for carry in history(settings_of(name, 1.0)):
        assert not (carry.training.kind_N == SAMPLED).any()


@pytest.mark.parametrize("fresh", [None, 0.0])
@pytest.mark.parametrize("name", memories.MEMORIES)
def test_fresh_share_of_zero_admits_no_fresh_row(name, fresh):
    """Catches fresh rows in the loop that is to have none, which is the default."""
    for carry in history(settings_of(name, fresh)):
        assert not (carry.training.kind_N == FRESH).any()


@pytest.mark.parametrize("later", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("begin", [1, 4])
@pytest.mark.parametrize("name", sorted(set(memories.MEMORIES) - {"subsampled"}))
def test_a_schedule_changes_the_fresh_rows_from_its_generation_on(name, begin, later):
    """Catches a change that a memory leaves out, that comes a generation early or late, or draws other old rows."""
    plain = settings_of(name, 0.25)
    scheduled = CycleSettings(name=name, rows=ROWS, fresh_schedule=[[0, 0.25], [begin, later]])
    carries = list(zip(history(plain), history.__wrapped__(scheduled), strict=True))
    for generation, (before, after) in enumerate(carries):
        same = [tags(rows) for rows in before] == [tags(rows) for rows in after]
        assert same == (generation < begin), generation
        if generation:
            new, found = sum(new_counts(plain, generation)), sources(after.training)
            assert found[SAMPLED, generation - 1] + found[FRESH, generation] == new
            share = later if generation >= begin else 0.25
            assert found[FRESH, generation] == math.floor(share * new + 0.5)


@pytest.mark.parametrize("sets", [1, 2, 3, 20])
def test_window_holds_the_last_sets(sets):
    """Catches a set too many or too few, an old one that stays, or a window that forgets the newest."""
    settings = CycleSettings(name="window", rows=ROWS, fresh_share=0.25, window_generations=sets)
    same = settings_of("full_synthetic" if sets == 1 else "expanding", 0.25)
    for generation, (carry, other) in enumerate(zip(history.__wrapped__(settings), history(same), strict=True)):
        expected = Counter({(REAL, 0): ROWS}) if generation < sets else Counter()
        for later in range(max(1, generation - sets + 1), generation + 1):
            expected.update({(SAMPLED, later - 1): 45, (FRESH, later): 15})
        assert sources(carry.training) == expected
        if sets in (1, 20):  # nothing is remembered, or nothing forgotten
            assert tags(carry.training) == tags(other.training)


def test_fixed_real_keeps_the_real_rows():
    """Catches real rows that are drawn from, or old samples that stay beside them."""
    for generation, carry in enumerate(history(settings_of("fixed_real", 0.25))[1:], start=1):
        assert tags(carry.training)[:ROWS] == [(REAL, 0, number) for number in range(ROWS)]
        assert sources(carry.training) == Counter(
            {(REAL, 0): ROWS, (SAMPLED, generation - 1): 45, (FRESH, generation): 15}
        )


def test_subsampled_draws_from_all_that_has_been():
    """Catches a pool that loses rows, and a draw that favours the newest or the oldest: n of (t + 1) n, each alike."""
    settings, seeds, generation = settings_of("subsampled", 0.25), 600, 3
    before, pools = history(settings)[generation - 1], history(settings_of("expanding", 0.25))
    drawn = Counter()
    for seed in range(seeds):
        carry = step(settings, before, generation, seed)
        assert tags(carry.archive) == tags(pools[generation].training)
        drawn.update(tags(carry.training))
    assert sum(drawn.values()) == seeds * ROWS and drawn.keys() <= set(tags(pools[generation].training))
    part = 1 / (generation + 1)
    deviation = [
        (drawn[tag] - seeds * part) / math.sqrt(seeds * part * (1 - part)) for tag in tags(pools[generation].training)
    ]
    assert max(map(abs, deviation)) < 4.5
    assert sum(value**2 for value in deviation) < 330  # chi-square, 240 degrees: exceeded with probability 1e-4


def test_every_memory_that_the_settings_name_is_there():
    """Catches a name that the schema allows and nothing computes, or the other way round."""
    names = CycleSettings.model_json_schema()["properties"]["name"]["enum"]
    assert [*memories.MEMORIES, "module:Name"] == names


@pytest.mark.parametrize(
    ("share", "rows", "expected"),
    [(0.0, 7, 0), (1.0, 7, 7), (0.5, 7, 4), (0.25, 10, 3), (0.29, 100, 29), (1 - 0.9, 10, 1), (0.7 + 0.1, 10, 8)],
)
def test_row_count_rounds_halves_up(share, rows, expected):
    """Catches truncation and rounding to even: 0.29 * 100 is 28.999999999999996 in binary."""
    assert row_count(share, rows) == expected


@pytest.mark.parametrize("name", ["full_synthetic", "balanced", "expanding", "incremental"])
def test_fresh_rows_take_the_place_of_those_that_did_not_pass(name):
    """Catches a set that is too short, fresh rows that stand in it twice, and others than were drawn at once."""
    settings, asked = settings_of(name, fresh=0.5), []
    carry = history(settings)[3]

    def draw_fresh(count, beside):
        asked.append(int(count))
        return tagged(FRESH, 4, count)

    passed = tagged(SAMPLED, 3, settings.rows)[:3]
    after = memories.following(settings, carry, 4, passed, draw_fresh, np.random.default_rng(0))
    lacking = settings.rows - 3
    assert asked == [lacking + row_count(0.5, settings.rows)]
    assert len(after.training.points) == memories.memory_of(settings).training_rows(4)
    of_this = [tag for tag in tags(after.training) if tag[:2] in ((FRESH, 4), (SAMPLED, 3))]
    assert len(set(of_this)) == len(of_this)
    assert sum(tag[0] == SAMPLED for tag in of_this) <= 3
