"""The two ways in which jaxloop refuses: bad input, and a run that failed."""

_MOST_CHARACTERS = 2000


def printable(text: str) -> str:
    """A text from outside as one line without control characters."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


class _OneLineError(Exception):
    """An error whose message is one line of bounded length, whatever text from outside it quotes."""

    def __str__(self) -> str:
        message = super().__str__()
        cut = len(message) - _MOST_CHARACTERS
        return printable(message[:_MOST_CHARACTERS]) + (f" ... ({cut:,} more characters)" if cut > 0 else "")


class InputError(_OneLineError):
    """What was asked for cannot be done: says what was wrong, where, and what would be right (exit code 2)."""


class DamageError(InputError):
    """A file of a run folder is missing, or not what the run wrote: names it."""


class RunError(_OneLineError):
    """A run broke off: says why, and that what was measured is kept (exit code 1)."""
