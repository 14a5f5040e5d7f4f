"""What the columns of metrics.csv mean, and which of them tables, figures and answers go by: those with a role.

A system declares its columns; whoever reads a table asks for a role, never for a name that one system alone has. Some
names are the same in all systems that measure such a thing: see STANDARD.
"""

import math
from typing import NamedTuple

PART, DIVERSITY, TRAINING_DIVERSITY, UNIQUE = "part", "diversity", "training diversity", "unique"
SUMMED = "summed up"
# A column has one of these, or none.
ROLES = {
    PART: "a part of the samples; all parts sum to 1, and the first one is what is right",
    DIVERSITY: "diversity of the samples",
    TRAINING_DIVERSITY: "the same of the rows that trained the model",
    UNIQUE: "different samples, of all samples",
    SUMMED: "summed up in summary.csv as it is",
}


# Every system has the first two. The others are what collapse is told by, and where one is lacking, that is not told.
STANDARD = (
    "diversity",
    "training_diversity",
    "held_out_nats",
    "source_entropy_nats",
    "untempered_forward_kl_nats",
    "untempered_forward_kl_standard_error_nats",
    "outside_share",
)


class Column(NamedTuple):
    """A column of metrics.csv."""

    name: str
    meaning: str
    least: float = -math.inf
    most: float = math.inf
    role: str = ""
    axis: str = ""  # what it is, in the few words that an axis has room for


class Columns:
    """The columns of one system, by role."""

    def __init__(self, declared: tuple[Column, ...]):
        """Keep them in their order.

        Raises:
          ValueError: a role is unknown, or has more columns than it may.
        """
        self.declared = declared
        for column in declared:
            if declared.count(column) > 1 or [one.name for one in declared].count(column.name) > 1:
                raise ValueError(f"{column.name}: is declared twice")
            if column.role and column.role not in ROLES:
                raise ValueError(f"{column.name}: {column.role!r} is no role; roles are {', '.join(ROLES)}")
        for role, names in ((DIVERSITY, ["diversity"]), (TRAINING_DIVERSITY, ["training_diversity"])):
            if self._of(role) != names:
                raise ValueError(
                    f"the role {role!r} is for {names[0]!r}, not for {', '.join(self._of(role)) or 'none'}"
                )
        if len(self._of(UNIQUE)) > 1:
            raise ValueError(f"the role {UNIQUE!r} is for one column, not {', '.join(self._of(UNIQUE))}")

    def _of(self, role: str) -> list[str]:
        return [column.name for column in self.declared if column.role == role]

    @property
    def parts(self) -> dict[str, str]:
        """The parts that the samples fall into, what is right first: their columns, and what each is called."""
        return {name: name.removesuffix("_share").replace("_", " ") for name in self._of(PART)}

    @property
    def right(self) -> str | None:
        """The column of what is right; None where the system has no right and wrong."""
        return next(iter(self.parts), None)

    @property
    def diversity(self) -> str:
        """The column of the samples' diversity, which every system has."""
        return self._of(DIVERSITY)[0]

    @property
    def unique(self) -> str | None:
        """The column of the share of different samples; None where all are different, as points are."""
        return next(iter(self._of(UNIQUE)), None)

    @property
    def summed_up(self) -> list[str]:
        """What summary.csv has beside kept diversity, in order."""
        return [name for name in (self.right, self.unique, *self._of(SUMMED)) if name]

    def axis(self, name: str) -> str:
        """What a column is, in the few words that an axis has room for."""
        return next((one.axis for one in self.declared if one.name == name), "")

    def bounds(self, name: str) -> tuple[float, float]:
        """The least and the greatest value that a column can have."""
        return next((one.least, one.most) for one in self.declared if one.name == name)


# Of runs in which any loop has a remedy (a check, or fresh rows that are aimed), whatever the system.
OF_REMEDIES = (
    Column("accepted_share", "rows that passed curation, of all that the model wrote", 0.0, 1.0),
    Column(
        "effective_rows",
        "rows that curation hands on, those that stand in more than once counted less: the inverse of the sum of "
        "squared shares",
        0.0,
    ),
    Column(
        "human_rows",
        "what people had to give: fresh rows that were drawn to train the model, and picks among rows that it wrote",
        0.0,
        role=SUMMED,
    ),
)


def reference(declared: tuple[Column, ...]) -> str:
    """Columns as a table in Markdown."""
    rows = [f"| `{column.name}` | {column.meaning} |" for column in declared]
    return "\n".join(["| column | meaning |", "|---|---|", *rows]) + "\n"
