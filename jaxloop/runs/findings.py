"""What a check of this machine found, and what to do about it; a check that fails is a finding, too."""

import traceback
from collections.abc import Callable
from typing import NamedTuple

from jaxloop.errors import InputError, RunError


class Finding(NamedTuple):
    """A line of what `jaxloop doctor` says, and of what a run warns of."""

    check: str  # what was looked at
    found: str
    to_do: str = ""  # nothing where all is as it should be

    @property
    def sentence(self) -> str:
        """What was found and what to do."""
        return f"{self.found}; {self.to_do}" if self.to_do else self.found


def guarded(check: str, look: Callable[[], list[Finding]], note: Callable[[str], object] = len) -> list[Finding]:
    """What a check finds; that it failed, and why, where it raises anything.

    Args:
      check: its name.
      look: the check.
      note: is given the traceback of an error that nobody foresaw.
    """
    try:
        return look()
    except (InputError, RunError) as error:
        return [Finding(check, f"{check}: cannot be had", str(error))]
    except Exception as error:
        note(traceback.format_exc())
        return [Finding(check, f"{check}: could not be checked", reason(error))]


def reason(error: BaseException) -> str:
    """An error in one line."""
    first_line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__
