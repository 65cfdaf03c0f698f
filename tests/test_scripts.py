"""What is run by hand: every module of benchmarks/ and poc/ finds what it imports of Consilia, in functions as well."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.test_house import imports

SCRIPTS = [path for folder in ("benchmarks", "poc") for path in sorted((REPOSITORY / folder).glob("[!_]*.py"))]
OURS = ("consilia", "benchmarks", "poc")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_a_script_finds_what_it_imports(path: Path) -> None:
    importlib.import_module(f"{path.parent.name}.{path.stem}")
    for module, name in imports(path):
        if module.split(".")[0] in OURS:
            found = importlib.import_module(module)
            assert not name or hasattr(found, name) or importlib.import_module(f"{module}.{name}"), f"{module}.{name}"
