"""jaxloop: the self-consuming training loop, exactly measured."""

import warnings
from importlib import metadata

__version__ = metadata.version("jaxloop-collapse")

try:
    metadata.version("jaxloop")
except metadata.PackageNotFoundError:
    pass
else:
    warnings.warn(
        "the unrelated PyPI package 'jaxloop' is installed beside 'jaxloop-collapse'; both are imported as 'jaxloop' "
        "and overwrite each other's files: run 'pip uninstall jaxloop', then reinstall jaxloop-collapse",
        stacklevel=2,
    )
