"""Enrichment: fresh rows that are aimed at what the training set covers least.

Legend: N rows, G classes of them.
"""

from collections.abc import Callable

import numpy as np

from jaxloop.loop.rows import ranks_within

# Of so many draws for each row that is wanted, those of the classes that lack are taken.
_DRAWS_FOR_ONE = 20


def aimed(
    draw: Callable[[int], np.ndarray],
    classes: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    beside: np.ndarray,
    count: int,
) -> np.ndarray:
    """So many rows of the source, (count, ...), chosen so that with the rows beside them every class has its share.

    Where they are too few for that, the classes that have the least of their share get them. Of a class that is so rare
    that the draws hold too few, rows of any class take the place.

    Args:
      draw: gives so many independent rows of the source.
      classes: of rows (N, ...) their classes (N,), negative for none, and the share of each class in the source, (G,).
      beside: (N, ...), the rows beside which they will train.
      count: how many are wanted.
    """
    if not count:
        return draw(0)
    class_N, share_G = classes(beside)
    there_G = np.bincount(class_N[class_N >= 0], minlength=len(share_G))
    wanted_G = filled(there_G, share_G, count)
    pool = draw(_DRAWS_FOR_ONE * count)
    class_P, _ = classes(pool)
    is_wanted_P = ranks_within(class_P) < wanted_G[class_P]
    rest = np.flatnonzero(~is_wanted_P)[: count - np.count_nonzero(is_wanted_P)]
    return pool[np.sort(np.concatenate([np.flatnonzero(is_wanted_P), rest]))]


def filled(there_G: np.ndarray, share_G: np.ndarray, count: int) -> np.ndarray:
    """How many rows each class gets, (G,) with this sum: the classes are filled to one level, in units of their shares.

    That is the level at which what they lack of it sums to the count; those that have more get nothing.
    """
    known = share_G > 0
    level_G = np.where(known, np.divide(there_G, share_G, out=np.full(len(share_G), np.inf), where=known), np.inf)
    order = np.argsort(level_G)[: np.count_nonzero(known)]
    there, share = np.cumsum(there_G[order]), np.cumsum(share_G[order])
    levels = (there + count) / share  # if the first classes of this order, and no others, are filled
    last = np.flatnonzero(levels > level_G[order])[-1]
    lacking_G = np.where(known, np.maximum(levels[last] * share_G - there_G, 0), 0)
    lacking_G *= count / lacking_G.sum()
    whole_G = np.floor(lacking_G).astype(np.int64)
    # What rounding leaves goes to the largest remainders.
    whole_G[np.argsort(whole_G - lacking_G, kind="stable")[: count - whole_G.sum()]] += 1
    return whole_G
