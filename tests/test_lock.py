"""lock.txt pins everything that the project asks for, at versions that pyproject.toml allows."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
LINES = [line for line in (ROOT / "lock.txt").read_text(encoding="utf-8").splitlines() if line[0] != "#"]
PINS = dict(line.split("==") for line in LINES)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


EXTRAS = PROJECT["optional-dependencies"]


def asked(*extras: str) -> list[Requirement]:
    """What the library and these extras ask for, but for each other."""
    texts = [*PROJECT["dependencies"], *(one for extra in extras for one in EXTRAS[extra])]
    return [one for one in map(Requirement, texts) if one.name != PROJECT["name"]]


def test_every_line_is_one_exact_version_without_a_build_of_one_machine():
    assert len(PINS) == len(LINES)
    for line in LINES:
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*==[0-9]+(\.[0-9]+)*(\.?(post|rc)[0-9]+)?", line), line


def test_what_the_project_asks_for_is_pinned_within_its_bounds():
    for requirement in asked(*EXTRAS):
        pinned = Version(PINS[canonicalize_name(requirement.name)])
        assert requirement.specifier.contains(pinned), f"{requirement} is pinned at {pinned}"


def test_what_the_library_needs_has_a_lower_bound_that_can_be_installed():
    for requirement in asked(*(extra for extra in EXTRAS if extra != "dev")):
        text = str(requirement)
        assert re.fullmatch(r"[a-z0-9-]+(\[[a-z]+\])?(<[0-9.]+,)?>=[0-9.]+", text), text


def test_dev_brings_every_other_extra():
    """`make setup` installs it."""
    named = {
        extra
        for text in EXTRAS["dev"]
        for extra in Requirement(text).extras
        if text.startswith("unimatrix-lm")
    }
    assert named == EXTRAS.keys() - {"dev"}
