"""Files are read only where they are what they should be."""

import io
import zipfile

import numpy as np
import pytest

from jaxloop.errors import InputError
from jaxloop.files import read_arrays, read_file


def test_an_archive_is_not_unpacked_beyond_what_is_expected(tmp_path):
    """5.8 MB of zeros, packed, were 6 GB of memory."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("tokens.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (2**26,)})
        file.write(bytes(2**26))
    for expected in ((4,), (2**26 + 1,)):
        with pytest.raises(InputError, match="is damaged, or not of the sizes"):
            read_arrays(content.getvalue(), tmp_path, {"tokens": (np.uint8, expected)})
    found = read_arrays(content.getvalue(), tmp_path, {"tokens": (np.uint8, (2**26,))})["tokens"]
    assert found.shape == (2**26,) and not found.any()
    with pytest.raises(InputError, match=r"is larger than it can be \(5 bytes, 4 at most\)"):
        (tmp_path / "five").write_bytes(b"12345")
        read_file(tmp_path / "five", 4)
