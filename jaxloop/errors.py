"""The two ways in which jaxloop refuses: bad input, and a run that failed."""


class InputError(Exception):
    """What was asked for cannot be done: says what was wrong, where, and what would be right (exit code 2)."""


class RunError(Exception):
    """A run broke off: says why, and that what was measured is kept (exit code 1)."""
