"""What any row of tokens has: ids below a size, and an end.

A *row* is a sequence as a model sees it: its token ids, then the end token up to the row's width. A row without any
end token was cut off by the width before it was finished. Which words the ids stand for is the system's affair.

Legend: N rows, T tokens a row (the context).
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Vocabulary:
    """So many tokens, numbered from 0; the greatest is the end, `<eos>`, and stands before the first token too.

    Sampling relies on the end being the greatest: places that share a row leave `<eos>` where they wrote nothing, and
    the least of what they have is the row.

    Args:
      size: how many, the end among them: 2 to 256, for ids are uint8.

    Raises:
      ValueError: the size is not one of these.
    """

    size: int

    def __post_init__(self):
        if not 2 <= self.size <= 256:
            raise ValueError(f"a vocabulary has from 2 to 256 tokens, not {self.size}")

    @property
    def end(self) -> int:
        """The end token."""
        return self.size - 1

    def lengths(self, tokens_NxT: np.ndarray) -> np.ndarray:
        """Tokens before the first end of each row, (N,) int64; the row's width where there is none."""
        ended_NxT = tokens_NxT == self.end
        return np.where(ended_NxT.any(axis=1), ended_NxT.argmax(axis=1), tokens_NxT.shape[1])

    def lengths_with_end(self, tokens_NxT: np.ndarray) -> np.ndarray:
        """Tokens of each row, its end included: one that was cut off by the context has none. (N,) integers."""
        return np.minimum(self.lengths(tokens_NxT) + 1, tokens_NxT.shape[1])
