"""The two ways in which jaxloop refuses: bad input, and a run that failed."""


class _OneLineError(Exception):
    """An error whose message is one line, whatever text from outside it quotes."""

    def __str__(self) -> str:
        return "".join(
            character if character.isprintable() else repr(character)[1:-1] for character in super().__str__()
        )


class InputError(_OneLineError):
    """What was asked for cannot be done: says what was wrong, where, and what would be right (exit code 2)."""


class RunError(_OneLineError):
    """A run broke off: says why, and that what was measured is kept (exit code 1)."""
