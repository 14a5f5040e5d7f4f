"""Rows of any dtype and shape."""

from collections import Counter

import numpy as np
import pytest

from jaxloop.loop.rows import KINDS, Rows, provenance_counts, unique_rows


def random_rows(width: int, alphabet, rows: int = 500, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).choice(np.array(alphabet, np.uint8), (rows, width))


@pytest.mark.parametrize(
    ("width", "alphabet"), [(1, [3]), (1, range(8)), (3, [0, 1]), (4, [0, 7, 127, 128, 255]), (40, [5])]
)
def test_unique_rows_against_plain_python(width, alphabet):
    """Catches rows compared by a part of their bytes, as signed bytes, or counted under another row's index."""
    rows = random_rows(width, alphabet)
    different, inverse, counts = unique_rows(rows)
    plain = Counter(map(bytes, rows))
    assert list(map(bytes, different)) == sorted(plain)
    assert counts.tolist() == [plain[key] for key in sorted(plain)]
    assert (different[inverse] == rows).all()
    assert different.dtype == np.uint8


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, bool])
@pytest.mark.parametrize("shape", [(), (1,), (2,), (3, 4), (2, 1, 3)])
def test_unique_rows_of_any_dtype_and_shape(shape, dtype):
    """Catches numbers, points and images that are told apart by their first bytes, or come back as bytes."""
    points = np.random.default_rng(0).integers(0, 2, (200, *shape)).astype(dtype)
    points[7:10] = points[3]
    different, inverse, counts = unique_rows(points)
    plain = Counter(point.tobytes() for point in points)
    assert different.dtype == dtype and different.shape == (len(plain), *shape)
    assert (different[inverse] == points).all()
    assert counts.tolist() == [plain[point.tobytes()] for point in different]


def test_unique_rows_are_those_of_different_bytes():
    """Catches a NaN that is not equal to itself, so that what has diverged looks diverse, and halves of a pair that are
    taken for rows.
    """
    points = np.array([[np.nan, 1.0], [0.5, 1.0], [np.nan, 1.0], [0.5, np.nextafter(1.0, 2.0)]])
    different, inverse, counts = unique_rows(points)
    assert different.shape == (3, 2) and sorted(counts.tolist()) == [1, 1, 2]
    assert inverse[0] == inverse[2] and len(set(inverse.tolist())) == 3


def test_unique_rows_of_views_and_of_nothing():
    """Catches reading memory that is not the rows' own: every second row, columns of a wider matrix, no row at all."""
    wide = random_rows(12, [0, 1, 2], rows=60)
    for rows in (wide[::2], wide[:, 3:5], wide[::-1, ::-1], np.asfortranarray(wide[:, :3])):
        different, inverse, _ = unique_rows(rows)
        assert sorted(set(map(bytes, rows))) == list(map(bytes, different))
        assert (different[inverse] == rows).all()
    assert unique_rows(wide[:0])[0].shape == (0, 12)
    assert unique_rows(np.zeros((0, 2, 3)))[0].shape == (0, 2, 3)


def test_provenance_is_counted_whatever_the_order_of_rows():
    """Rows of one provenance that do not stand together, and would be counted as two."""
    rng = np.random.default_rng(0)
    kind_N, generation_N = rng.integers(3, size=500).astype(np.uint8), rng.integers(4, size=500).astype(np.int32)
    expected = Counter((KINDS[kind], int(generation)) for kind, generation in zip(kind_N, generation_N, strict=True))
    found = provenance_counts(Rows(np.zeros(500), kind_N, generation_N))
    assert {(kind, generation): count for kind, generation, count in found} == expected
    places = [(KINDS.index(kind), generation) for kind, generation, _ in found]
    assert places == sorted(places) and len(places) == 12
    assert provenance_counts(Rows(np.zeros(0), kind_N[:0], generation_N[:0])) == []
