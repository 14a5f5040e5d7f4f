"""What a run came to, in numbers and words, on tables whose truth is planted."""

import itertools
import math
import time

import numpy as np
import pandas as pd
import pytest
from frames import NO_TAILS, SHARE, level, summed, table

from jaxloop.analysis import summary
from jaxloop.analysis.cells import as_frame, cells_of
from jaxloop.analysis.collapse import collapse_rows, half_life_rows
from jaxloop.analysis.stats import bootstrap_band, paired_difference
from jaxloop.analysis.summary import last_generation, summary_rows
from jaxloop.report.answer import answer_lines
from jaxloop.systems.logic.columns import COLUMNS


def answer(metrics: pd.DataFrame, axes: list[str], learner="transformer") -> list[str]:
    return answer_lines(metrics, collapse_rows(metrics, NO_TAILS, axes), axes, learner, COLUMNS)


def test_planted_means_and_differences_come_out():
    """Other generations, seeds that are not paired, the wrong sign, or a share of anything but the first real data."""
    own_S = np.array([0.01, 0.0, -0.01, 0.02, 0.03])
    # A fifth of nine generations are the last two, 7 and 8.
    higher = lambda seed, generation: level(0.4)(seed, generation) + (generation >= 7) * (0.2 + own_S[seed])  # noqa: E731
    rows = summed(table([{"axes": {SHARE: 0.0}, "kept": level(0.4)}, {"axes": {SHARE: 0.5}, "kept": higher}]), [SHARE])
    final_S = np.array([(level(0.4)(seed, 7) + level(0.4)(seed, 8)) / 2 for seed in range(5)])
    assert [row[SHARE] for row in rows] == [0.0, 0.5]
    mean, low, high = (float(limit[0]) for limit in bootstrap_band(final_S[:, None]))
    assert [rows[0][f"kept_diversity{limit}"] for limit in ("", "_low", "_high")] == pytest.approx([mean, low, high])
    assert (rows[0]["seeds"], rows[0]["last_generation"], rows[0]["final_generations"]) == (5, 8, 2)
    assert rows[0]["difference_seeds"] == 0 and math.isnan(rows[0]["difference"])
    expected = paired_difference(final_S + 0.2 + own_S, final_S)
    found = [rows[1][name] for name in ("difference", "difference_low", "difference_high", "improvement")]
    assert found == pytest.approx(list(expected))
    assert rows[1]["difference_high"] - rows[1]["difference_low"] < 0.1
    assert rows[0]["late_slope_per_generation"] == pytest.approx(-0.075)
    # What is not measured anywhere has no column; what is has all three.
    measures = ["kept_diversity", "true_share", "unique_share", "total_variation", "forward_kl_nats", "alive_share"]
    assert [name for name in rows[0] if name in measures] == measures[:-1]


def test_collapse_with_planted_censoring():
    """Loops that have not collapsed left out, or counted as collapsed at the end.

    Three of five collapse, in generations 2, 4 and 6, and one is cut off after generation 4. By hand: 4/5 outlive 2;
    of the 4 at risk at 4 one collapses: 3/5; of the 2 at risk at 6 one: 3/10. The median is 6.
    """
    when = {0: 2, 1: 4, 2: 6, 3: 99, 4: 99}
    cell = {
        "axes": {SHARE: 0.0},
        "kept": lambda seed, generation: 0.01 if generation >= when[seed] else 0.9,
        "length": lambda seed: 5 if seed == 4 else 9,
    }
    (row,) = summed(table([cell]), [SHARE])
    assert (row["collapsed_loops"], row["collapse_generation"]) == (3, 6)
    assert row["collapse_generation_high"] == math.inf
    assert "below 0.1" in row["collapse_criterion"]
    # The cell stands where all of its loops stand.
    assert row["last_generation"] == 4 and row["kept_diversity"] == pytest.approx((0.01 * 2 + 0.9 * 3) / 5)
    alive = {"axes": {SHARE: 0.0}, "kept": level(0.9)}
    (row,) = summed(table([alive]), [SHARE])
    assert (row["collapsed_loops"], row["collapse_generation"]) == (0, math.inf)


def test_fresh_rows_count_once():
    """Fresh rows that stay in the set of `expanding` counted anew in every generation, or those not yet summed up."""
    origins = [
        {
            "loop": "0",
            "seed": "0",
            "generation": str(generation),
            "kind": kind,
            "from_generation": str(origin),
            "rows": "10",
        }
        for generation in range(4)
        for kind, origin in [("real", 0), *(("fresh", origin) for origin in range(1, generation + 1))]
    ]
    metrics = table([{"axes": {SHARE: 0.5}, "kept": level(0.5)}], seeds=(0,), generations=3)
    assert summed(metrics, [SHARE], origins)[0]["fresh_rows"] == 20


@pytest.mark.parametrize("seeds", [(0,), (0, 1), (0, 1, 2, 3, 4)])
@pytest.mark.parametrize("generations", [1, 2, 9])
def test_nothing_is_too_little(seeds, generations):
    """A traceback, or columns that differ between rows, at the end of a run that was small, cut off or diverged."""
    cells = [
        {"axes": {SHARE: 0.0, "cycle.name": "full_synthetic"}, "kept": level(0.0, 0.0), "forward": math.inf},
        {
            "axes": {SHARE: 0.5, "cycle.name": "balanced"},
            "kept": level(0.5),
            "length": lambda seed: 1 + seed % generations,
        },
        {"axes": {"cycle.name": "expanding"}, "kept": level(0.7), "seeds": (seeds[-1],), "forward": ""},
        {"axes": {SHARE: 1.0, "cycle.name": "expanding"}, "kept": level(0.9), "seeds": (77,), "control": 1},
    ]
    axes = [SHARE, "cycle.name"]
    metrics = table(cells, seeds, generations)
    rows = summed(metrics, axes)
    assert len(rows) == 4 and all(list(row) == list(rows[0]) for row in rows)
    assert rows[0]["forward_kl_nats"] == math.inf and math.isnan(rows[2]["forward_kl_nats"])
    assert math.isnan(rows[2][SHARE]) and rows[2]["seeds"] == 1
    assert math.isnan(rows[0]["kept_diversity_low"]) == (len(seeds) == 1)
    assert rows[3]["difference_seeds"] == 0
    lines = answer(metrics, axes)
    assert any("full synthetic" in line for line in lines) and any("shares no seed" in line for line in lines)


def test_the_answer_ranks_and_says_what_is_not_told_apart():
    """Cells in the order of the grid, a difference without its interval, one claimed that seeds do not show."""
    clear, same = level(0.8), level(0.5)
    other = lambda seed, generation: same(seed, generation) + 0.02 * (-1) ** seed * (generation > 0)  # noqa: E731
    cells = [
        {"axes": {SHARE: 0.0}, "kept": other},
        {"axes": {SHARE: 0.1}, "kept": same},
        {"axes": {SHARE: 0.5}, "kept": clear},
    ]
    lines = answer(table(cells), [SHARE])
    ranked = [line for line in lines if line.startswith("  fresh share") and "%" in line]
    assert [line.split(":")[0].strip() for line in ranked] == ["fresh share 0.5", "fresh share 0", "fresh share 0.1"]
    assert "in 5 of 5 seeds" in ranked[0] and "not told apart" not in ranked[0]
    assert "in 3 of 5 seeds: not told apart" in ranked[1]
    assert lines[0].startswith("kept diversity (transformer, mean of generations 7 to 8): share of the first real data")


def test_cells_of_different_length_are_compared_where_both_are():
    """A cell "above the next by -0.35", or by 0.000 where two are one course, and not a word of which generation."""
    falling = lambda seed, generation: 0.9 - 0.1 * generation + 0.01 * seed  # noqa: E731
    short, long = (lambda seed: 2), (lambda seed: 9)
    cells = [
        {"axes": {"cycle.generations": 2, SHARE: 0.0}, "kept": falling, "length": short},
        {"axes": {"cycle.generations": 9, SHARE: 0.0}, "kept": falling, "length": long},
        {"axes": {"cycle.generations": 9, SHARE: 0.5}, "kept": lambda seed, generation: 0.95 - 0.09 * generation},
    ]
    _, first, second, *_ = answer(table(cells), ["cycle.generations", SHARE])
    assert "generations 2, fresh share 0" in first and "below the next by 0.0" in first
    assert "in 5 of 5 seeds (generation 1)" in first and "-" not in first.split("next by")[1]
    assert "generations 9, fresh share 0.5" in second and "(generation" not in second.split("above the next")[1]
    (same,) = (line for line in answer(table(cells[:2]), ["cycle.generations"]) if "the next" in line)
    assert "the same as the next in 5 of 5 seeds (generation 1)" in same


def test_the_diversity_of_noise_is_called_that():
    """A loop that writes nothing but nonsense ranked first, as the one that has kept most."""
    metrics = table(
        [
            {"axes": {SHARE: 0.0}, "kept": level(1.6), "true": 0.0123},
            {"axes": {SHARE: 0.5}, "kept": level(0.9), "true": 0.81},
        ]
    )
    _, noise, alive, *_ = answer(metrics, [SHARE])
    assert "fresh share 0: 156.3%" in noise and ", but only 0.012 of the samples true; above" in noise
    assert "fresh share 0.5" in alive and "true" not in alive


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_few_seeds_have_no_percentages_and_no_claims(seeds):
    """A mean of two seeds given out as a result."""
    cells = [{"axes": {SHARE: share}, "kept": level(share)} for share in (0.0, 0.5)]
    lines = answer(table(cells, seeds), [SHARE])
    assert sum("n too small" in line for line in lines) == 1
    assert not any("%" in line for line in lines) and not any("told apart" in line for line in lines)


def test_a_planted_trend_is_found_and_none_invented():
    """Columns of the test in the order of the grid instead of the axis, one direction only, or controls among them."""
    order = [0.5, 0.0, 1.0]
    for direction, word in ((1, "rises"), (-1, "falls")):
        cells = [{"axes": {SHARE: share}, "kept": level(0.5 + 0.3 * direction * share)} for share in order]
        (line,) = (line for line in answer(table(cells, seeds=(0, 1, 2)), [SHARE]) if "p = " in line)
        # 3 seeds, all in perfect order: one of 3! orders for each, in either direction.
        assert f"fresh share 0, 0.5, 1: it {word}, p = {2 / 6**3:.2g}, 3 seeds" in line
        assert any("p < 0.001, 5 seeds" in line for line in answer(table(cells), [SHARE]))
    flat = [{"axes": {SHARE: share}, "kept": level(0.5)} for share in order]
    (line,) = (line for line in answer(table(flat), [SHARE]) if "p = " in line)
    assert "no trend shown" in line
    for few in ((0,), (0, 1)):
        assert not any("p = " in line for line in answer(table(flat, seeds=few), [SHARE]))
    assert not any("p = " in line for line in answer(table(flat[:2]), [SHARE]))


def test_the_answer_stays_short():
    """Reference learners and a large grid that drown what was asked; the transformer must come first."""
    axes = ["learner.name", SHARE, "sample.temperature"]
    cells = [
        {"axes": dict(zip(axes, values, strict=True)), "kept": level(values[1] * 0.9)}
        for values in itertools.product(
            ("oracle", "ngram", "transformer", "resample"), (0.0, 0.1, 0.2, 0.5, 1.0), (0.5, 0.7, 0.8, 1.0, 1.2)
        )
    ]
    lines = answer(table(cells), axes)
    assert len(lines) <= 25 and "(transformer," in lines[0]
    assert sum(line.startswith(("oracle", "ngram", "resample")) for line in lines) == 3
    assert "more cells" in "".join(lines)


def test_words_and_empty_cells_of_axes_stay_what_they_are():
    """Cells that lack a setting dropped in silence, numbers read as words or words refused."""
    cells = [
        {"axes": {"cycle.name": "full_synthetic", "language.only_true": True, SHARE: 0.5}, "kept": level(0.5)},
        {"axes": {"cycle.name": "balanced", "language.only_true": False}, "kept": level(0.5)},
        {"axes": {"cycle.name": "balanced", "language.only_true": False, SHARE: 1.0}, "kept": level(0.5), "control": 1},
    ]
    axes = ["cycle.name", "language.only_true", SHARE]
    metrics = table(cells)
    assert metrics[SHARE].dtype == float and metrics[SHARE].isna().sum() == 45
    found = cells_of(metrics, axes)
    assert [cell.label for cell in found] == [
        "full synthetic, only true, fresh share 0.5",
        "balanced, not only true",
        "balanced, not only true, fresh data only",
    ]
    assert [last_generation(cell.rows) for cell in found] == [8, 8, 8]


FRESH = {"control": 1, "axes": {SHARE: 1.0}, "kept": level(0.98)}


def enough(cells: list[dict], axes=(SHARE,), **settings) -> list[str]:
    lines = answer(table(cells, **settings), list(axes))
    begin = next((place for place, line in enumerate(lines) if line.startswith("how much fresh data")), len(lines))
    return [
        line
        for line in lines[begin:][:4]
        if line.startswith(("how much", "  0", "  1", "  none", "  balanced", "  temp"))
    ]


def test_the_smallest_fresh_share_that_is_enough():
    """Catches a share that is only not shown to be worse, one below a share that is not enough, and unpaired seeds."""
    kept = {0.0: 0.1, 0.1: 0.5, 0.25: 0.9, 0.5: 0.95, 0.75: 0.97}
    cells = [{"axes": {SHARE: share}, "kept": level(height)} for share, height in kept.items()]
    title, line = enough([*cells, FRESH])
    assert "at most 0.1 below that of fresh data only" in title
    # Seeds share their noise, so the differences have no spread: means of generations 7 and 8 alone decide.
    assert line.startswith("  0.25, difference -0.075 (-0.075 to -0.075); not shown for 0.1, difference -0.45")
    wide = {"axes": {SHARE: 0.5}, "kept": level(0.95, spread=40)}
    assert enough([*cells[:3], wide, cells[4], FRESH])[1].startswith("  0.75, difference -0.009")
    assert enough([*cells[:2], FRESH])[1].startswith("  none of 0, 0.1 is shown to be; 0.1, difference -0.45")
    assert enough([*cells[3:], FRESH])[1].endswith("; the smallest that was tried")
    assert enough([*cells, FRESH], seeds=(0, 1)) == ["how much fresh data is enough: not told with fewer than 3 seeds"]
    assert enough(cells) == [] and enough([cells[0], FRESH]) == []


def test_enough_is_told_for_each_combination_of_the_other_axes():
    """Catches a control of another temperature, and cells of two temperatures taken for one course."""
    cells = [
        {"axes": {SHARE: share, "sample.temperature": temperature}, "kept": level(height)}
        for temperature, heights in ((0.5, (0.1, 0.5)), (1.0, (0.5, 0.95)))
        for share, height in zip((0.0, 0.5), heights, strict=True)
    ]
    controls = [
        {"axes": {SHARE: 1.0, "sample.temperature": temperature}, "kept": level(height), "control": 1}
        for temperature, height in ((0.5, 0.55), (1.0, 1.0))
    ]
    _, first, second = enough([*cells, *controls], (SHARE, "sample.temperature"))
    assert first.startswith("  temperature 0.5: 0.5, difference -0.047")
    assert second.startswith("  temperature 1: 0.5, difference -0.047")


def test_first_data_without_diversity_has_none_to_keep():
    """Catches a division by 0: `inf` kept, "shares no seed", a traceback that takes other cells along."""
    metrics = table([{"axes": {SHARE: share}, "kept": level(share)} for share in (0.2, 0.5)] + [FRESH])
    metrics.loc[metrics[SHARE] == 0.2, "training_diversity"] = 0.0
    lines = answer(metrics, [SHARE])
    assert "  fresh share 0.2: not defined, its first real data has no diversity" in lines
    assert any(line.startswith("  fresh share 0.5: 5") for line in lines)
    assert not any(word in line for line in lines for word in ("inf", "nan", "no seed"))
    row = next(row for row in summed(metrics, [SHARE]) if row[SHARE] == 0.2)
    assert math.isnan(row["kept_diversity"]) and row["seeds"] == 5 and row["true_share"] == 0.9
    metrics["training_diversity"] = 0.0
    assert sum("not defined" in line for line in answer(metrics, [SHARE])) == 3
    assert "kept_diversity" in summed(metrics, [SHARE])[0]
    axes = ["learner.name", SHARE]
    both = pd.concat(
        [
            metrics.assign(**{"learner.name": name}).assign(loop=metrics["loop"] + 50 * place)
            for place, name in enumerate(("transformer", "oracle"))
        ]
    )
    assert "oracle: not defined, its first real data has no diversity" in answer(both, axes)


def test_a_seed_without_diversity_does_not_hide_the_others():
    """Catches means over seeds that are not a number since one of them is."""
    metrics = table([{"axes": {SHARE: share}, "kept": level(share)} for share in (0.2, 0.5)])
    metrics.loc[(metrics[SHARE] == 0.2) & (metrics["seed"] == 3), "training_diversity"] = 0.0
    row, _ = summed(metrics, [SHARE])
    assert row["seeds"] == 5 and 0.1 < row["kept_diversity"] < 0.4 and row["kept_diversity_low"] > 0


def test_one_seed_is_not_counted():
    """In 1 of 1 seeds says nothing."""
    lines = answer(
        table([{"axes": {SHARE: share}, "kept": level(share)} for share in (0.01, 0.5)], seeds=(0,)), [SHARE]
    )
    assert not any(" of 1 " in line for line in lines)


def lines_of(cells: list[dict], axes=(SHARE,)) -> list[str]:
    return answer(table(cells), list(axes))


def test_a_cell_that_diverged_takes_nothing_from_the_others():
    """Catches intervals, a trend, "enough" and times of collapse of healthy cells that go by what a broken one has."""
    kept = {0.1: 0.5, 0.25: 0.9, 0.5: 0.95}
    cells = [{"axes": {SHARE: share}, "kept": level(height)} for share, height in kept.items()]
    alone = lines_of([*cells, FRESH])
    diverged = {"axes": {SHARE: 0.0}, "kept": level(0.9), "length": lambda seed: 1, "seeds": (0, 1)}
    beside = lines_of([diverged, *cells, FRESH])

    def of(lines: list[str], *begins: str) -> list[str]:
        return [line.split(", mean of")[0].split(";")[0] for line in lines if line.startswith(begins)]

    for begins in ("  fresh share 0.1", "  fresh share 0.25", "  fresh share 0.5", "  fresh data only", "  0."):
        assert of(alone, begins) == of(beside, begins) != []
    assert "  all loops: not by generation 8 in 20 of 20 loops" in alone
    assert "  4 cells: not by generation 8 in 20 of 20 loops" in beside
    assert "  1 unfinished cell: not by generation 0 in 2 of 2 loops" in beside
    # It has kept everything, of one generation: no first place, and nobody's next.
    assert beside[5].startswith("  fresh share 0: 1.000 (2 seeds), generation 0") and "the next" not in beside[4]


def test_what_diverged_at_once_or_is_noise_is_not_enough():
    """Catches a share that counts as enough by its first generation, or by the diversity of nonsense."""
    cells = [{"axes": {SHARE: share}, "kept": level(height)} for share, height in ((0.25, 0.9), (0.5, 0.95))]
    diverged = {"axes": {SHARE: 0.0}, "kept": level(0.98), "length": lambda seed: 2}
    (line,) = enough([diverged, *cells, FRESH])[1:]
    assert line.startswith("  0.25, difference -0.07") and line.endswith("for 0, which has come to generation 1 only")
    noise = {"axes": {SHARE: 0.0}, "kept": level(1.6), "true": 0.02}
    (line,) = enough([noise, *cells, FRESH])[1:]
    assert line.startswith("  0.25, difference") and line.endswith(", but only 0.02 of the samples true")
    unfinished = FRESH | {"length": lambda seed: 2}
    assert enough([*cells, unfinished])[0].startswith("how much")
    assert any("not told, fresh data only has come to generation 1" in line for line in lines_of([*cells, unfinished]))


def test_a_control_is_that_of_its_cycle_whatever_the_order():
    """Catches balanced cells held against the control of `expanding`, which stands first in the grid."""
    name = "cycle.name"
    cells = [
        {"axes": {name: cycle, SHARE: share}, "kept": level(height)}
        for cycle, heights in (("expanding", (0.8, 0.9)), ("balanced", (0.5, 0.6)))
        for share, height in zip((0.0, 0.5), heights, strict=True)
    ]
    controls = [
        {"axes": {name: cycle, SHARE: 1.0}, "kept": level(height), "control": 1}
        for cycle, height in (("expanding", 0.95), ("full_synthetic", 0.62))
    ]
    (line,) = (line for line in lines_of([*cells, *controls], (name, SHARE)) if line.startswith("  balanced: 0"))
    assert line.startswith("  balanced: 0.5, difference -0.019")


def test_a_thousand_cells_take_seconds():
    """Time that grows with the square of the loops, or tens of milliseconds for each cell: 10,000 took many minutes."""
    cells = [{"axes": {SHARE: place / 1000}, "kept": level(0.5)} for place in range(1000)]
    metrics = table(cells, [0], 3)
    tails = pd.DataFrame(
        [
            {"loop": loop, "generation": generation, "classes": "tenth", "class": str(tenth), "source_share": 0.1,
             "model_share": 0.1, "first_rows": 5, "alive_share": 1.0}
            for loop in range(1000) for generation in range(3) for tenth in range(1, 11)
        ]
    )  # fmt: skip
    begun = time.process_time()
    collapse = collapse_rows(metrics, tails, [SHARE])
    assert len(half_life_rows(metrics, tails, [SHARE])) == 10_000
    assert len(summary_rows(metrics, collapse, as_frame([], "provenance"), [SHARE], COLUMNS)) == 1000
    answer_lines(metrics, collapse, [SHARE], "resample", COLUMNS)
    assert time.process_time() - begun < 15


def test_floors_are_fitted_to_few_cells_only(monkeypatch):
    """A tenth of a second for each of 10,000 cells would keep everybody waiting for a quarter of an hour."""
    cells = [{"axes": {SHARE: share / 10}, "kept": level(share / 10)} for share in range(3)]
    assert all(row["floor_weight"] >= 0 for row in summed(table(cells), [SHARE]))
    monkeypatch.setattr(summary, "MOST_FITTED", 2)
    rows = summed(table(cells), [SHARE])
    assert all(math.isnan(row["floor_weight"]) and math.isnan(row["floor"]) for row in rows)
    assert all(math.isfinite(row["late_slope_per_generation"]) for row in rows)
