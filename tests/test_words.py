"""The words of one system stand in its own rooms."""

import re
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "jaxloop"
# The logic language and what is made for it; learners of sequences of tokens; the bench, which times those two; the
# commands that read or describe expressions.
ROOMS = ("systems/logic", "learners/transformer", "learners/reference/ngram", "learners/reference/autoregressive")
ROOMS += ("learners/vocabulary", "bench", "commands/corpus", "commands/cli")
WORDS = re.compile(r"verdict|token|expression|only_true|true_share", re.IGNORECASE)


def test_words_of_the_logic_language_stand_in_its_rooms_alone():
    """Catches a loop, a table or a figure that works for one system only: a new one would have to change it."""
    found = [
        f"{path.relative_to(PACKAGE)}:{number}: {line.strip()}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if not path.relative_to(PACKAGE).as_posix().startswith(ROOMS)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if WORDS.search(line)
    ]
    assert found == []
