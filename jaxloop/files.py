"""Files that appear whole or not at all, and that are read only where they are what they should be.

A folder may come from somebody else: nothing here follows a link, waits for a pipe, or takes more memory than what is
expected needs.
"""

import hashlib
import io
import json
import math
import os
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from jaxloop.errors import DamageError, InputError

# A link is not followed, and a pipe is not waited for; Windows has neither.
_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_READ = os.O_RDONLY | _NO_LINK | getattr(os, "O_NONBLOCK", 0)
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK

_SEAL = "# sealed by jaxloop, SHA-256 of all that follows: "
_SEAL_KEY = "sha256"
_HEADER_BYTES = 1024  # what NumPy writes before the numbers of an array, and more


def digest(content: bytes) -> str:
    """SHA-256 of the content, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


class Digest:
    """What `digest` says of content that comes in parts, after each of them."""

    def __init__(self, content: bytes):
        """Begin with some content."""
        self._so_far = hashlib.sha256(content)

    def add(self, content: bytes) -> None:
        """Go on with more."""
        self._so_far.update(content)

    @property
    def text(self) -> str:
        """Of all so far."""
        return self._so_far.hexdigest()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all; a link in its place is replaced, never followed."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        with os.fdopen(os.open(partial, _CREATE, 0o666), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def read_file(path: Path, most_bytes: int) -> bytes:
    """The content of a regular file.

    Raises:
      DamageError: it is missing, no regular file, larger than it can be, or cannot be read.
    """
    try:
        with os.fdopen(os.open(path, _READ), "rb") as file:
            state = os.fstat(file.fileno())
            if not stat.S_ISREG(state.st_mode):
                raise DamageError(f"{path}: is no regular file")
            if state.st_size > most_bytes:
                raise DamageError(f"{path}: is larger than it can be ({state.st_size:,} bytes, {most_bytes:,} at most)")
            return file.read(most_bytes + 1)
    except FileNotFoundError:
        raise DamageError(f"{path}: is missing") from None
    except OSError as error:
        raise DamageError(f"{path}: cannot be read: {error.strerror or error}") from None


def open_without_following(path: Path) -> io.TextIOWrapper:
    """Open a file to be locked: made where it is not there, and neither emptied nor followed where it is a link.

    Raises:
      OSError: it cannot be opened.
    """
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | _READ, 0o666), "r+")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(None, "is no regular file", str(path))
    return file


def require_plain_tree(folder: Path) -> None:
    """Refuse a folder that holds anything but folders and regular files, however deep.

    Raises:
      InputError: it does; what is written or deleted there would go where a link leads.
    """
    waiting = [folder]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
                    elif not entry.is_file(follow_symlinks=False):
                        kind = "a link" if entry.is_symlink() else "neither a file nor a folder"
                        raise InputError(f"{entry.path}: is {kind}, and a run folder has none; remove it")
        except FileNotFoundError:
            continue


def seal_text(text: str) -> bytes:
    """A text with a first line, a comment in TOML, that seals the rest."""
    content = text.encode()
    return f"{_SEAL}{digest(content)}\n".encode() + content


def unseal_text(content: bytes, path: Path) -> str:
    """What `seal_text` sealed.

    Raises:
      DamageError: it is not what was sealed.
    """
    first, _, rest = content.partition(b"\n")
    if not first.startswith(_SEAL.encode()):
        raise DamageError(
            f"{path}: has no seal in its first line; somebody has changed it, or an older jaxloop made it"
        )
    if first != f"{_SEAL}{digest(rest)}".encode():
        raise DamageError(f"{path}: is not what the run wrote; somebody has changed it, or it is damaged")
    return rest.decode()


def seal_json(values: dict[str, Any]) -> bytes:
    """A dictionary as JSON, with the digest of all else in it."""
    return _as_json({**values, _SEAL_KEY: digest(_as_json(values))})


def unseal_json(content: bytes, path: Path) -> dict[str, Any]:
    """What `seal_json` sealed.

    Raises:
      DamageError: it is not what was sealed.
    """
    try:
        values = json.loads(content)
        sealed = values.pop(_SEAL_KEY)
        whole = sealed == digest(_as_json(values)) and content == seal_json(values)
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise DamageError(f"{path}: is damaged") from None
    if not whole:
        raise DamageError(f"{path}: is damaged")
    return values


def _as_json(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=1, ensure_ascii=True) + "\n").encode()


class AtMost(int):
    """A number of rows that is not known, but for the most that it can be."""


def arrays_as_file(arrays: Mapping[str, np.ndarray], compressed: bool = False) -> bytes:
    """The content of an .npz file with these arrays."""
    content, save = io.BytesIO(), np.savez_compressed if compressed else np.savez
    # For all that pyright knows, one of the names might be that of an option.
    save(content, **{name: np.asarray(array, order="C") for name, array in arrays.items()})  # pyright: ignore[reportArgumentType]
    return content.getvalue()


def read_arrays(
    content: bytes, path: Path, expected: Mapping[str, tuple[DTypeLike, tuple[int, ...]]]
) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, whose names, dtypes and shapes are known.

    Args:
      content: of the file.
      path: what is named in an error.
      expected: dtype and shape of each array; its rows may be `AtMost` so many.

    Raises:
      DamageError: it holds anything else; nothing larger than expected is unpacked.
    """
    arrays = {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
            if members.keys() != expected.keys() or len(archive.infolist()) != len(expected):
                raise ValueError("other arrays")
            for name, (dtype, shape) in expected.items():
                size = math.prod(shape) * np.dtype(dtype).itemsize
                is_bounded = bool(shape) and isinstance(shape[0], AtMost)
                if not (0 if is_bounded else size) <= members[name].file_size <= size + _HEADER_BYTES:
                    raise ValueError("another size")
                stream = io.BytesIO(archive.read(members[name]))
                if np.lib.format.read_magic(stream) != (1, 0):
                    raise ValueError("another format")
                found_shape, fortran_order, found_dtype = np.lib.format.read_array_header_1_0(stream)
                if is_bounded and len(found_shape) == len(shape) and 0 <= found_shape[0] <= shape[0]:
                    shape = (found_shape[0], *shape[1:])
                if (found_shape, found_dtype, fortran_order) != (shape, np.dtype(dtype), False):
                    raise ValueError("another shape or dtype")
                arrays[name] = np.frombuffer(stream.read(), dtype).reshape(shape).copy()
    except Exception:  # Whatever a damaged archive leads the unpacking to.
        raise DamageError(f"{path}: is damaged, or not of the sizes that the run's config.toml says") from None
    return arrays
