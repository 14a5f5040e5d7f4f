"""One process at a time in a run folder, or one of each number where several share a run."""

import errno
from pathlib import Path

from jaxloop.errors import InputError
from jaxloop.files import open_without_following

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)


class Lock:
    """Keeps every other process out of a folder until this one ends, however it ends."""

    def __init__(self, folder: Path, process: int):
        """Take the lock.

        Args:
          folder: of the run.
          process: which of the processes that share the run.

        Raises:
          InputError: another process has it.
          OSError: its file cannot be opened.
        """
        self.warning: str | None = None  # where nothing could be locked
        self._file = None
        try:
            import fcntl
        except ImportError:  # Windows has no such lock.
            return
        own = folder / f".lock_{process}"
        self._file = open_without_following(own)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Of the processes that shared an earlier run, one may have outlived the first.
            for other in folder.glob(".lock_*") if process == 0 else ():
                if other != own:
                    with open_without_following(other) as file:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if isinstance(error, BlockingIOError) or error.errno not in _NO_LOCKS:
                self.release()
            if isinstance(error, BlockingIOError):
                raise InputError(
                    f"{folder}: another jaxloop is running in it; wait, or name another with --out"
                ) from None
            if error.errno not in _NO_LOCKS:
                raise
            self.warning = (
                f"{folder}: this file system has no locks ({error.strerror}); take care that no second jaxloop runs in "
                "the folder"
            )

    def release(self) -> None:
        """Let others in."""
        if self._file:
            self._file.close()
