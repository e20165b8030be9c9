"""The packages that only a part of the library needs, and the extra of unimatrix-lm that brings each.

A function that needs one calls `needs` and imports it then; a module that is nothing without one imports it
like any other. Either way the command line says in one line what to install.
"""

from importlib.util import find_spec

from unimatrix.errors import UserError

# by the names that they are imported under; pyproject.toml declares the same (tests/test_extras.py compares)
EXTRA_OF = {
    "accelerate": "train",
    "datasets": "train",
    "tensorboard": "train",
    "altair": "paper",
    "jinja2": "paper",
    "pandas": "paper",
    "pyppmd": "paper",
    "scipy": "paper",
    "lm_eval": "eval",
    "wonderwords": "eval",
    "rosa": "bench",
    "vl_convert": "paper",
    "zstandard": "paper",
}


class MissingPackage(UserError):
    """A package that is asked for is not installed: names it, and what to install."""

    def __init__(self, package: str) -> None:
        extra = EXTRA_OF.get(package)
        what = package if extra is None else f"'unimatrix-lm[{extra}]'"
        super().__init__(f"needs {package}; pip install {what}")
        self.package = package

    def __reduce__(self) -> tuple[type["MissingPackage"], tuple[str]]:
        # Python's own would call it with the message: it comes from a worker's process too
        return MissingPackage, (self.package,)


def needs(package: str) -> None:
    """Raises MissingPackage unless a package of that name can be imported."""
    if find_spec(package) is None:
        raise MissingPackage(package)
