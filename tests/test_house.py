"""The package as a whole: no pickle, and every name used of NVFlare exists. Layers are checked by import-linter."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

from consilia.flare.recipe import ALLOWED_CLASSES
from tests.conftest import REPOSITORY

SOURCE = REPOSITORY / "custom" / "consilia"
MODULES = sorted(SOURCE.rglob("*.py"))


def imports(path: Path) -> list[tuple[str, str]]:
    """(module, name) of every import, also those inside functions."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found += [(node.module, alias.name) for alias in node.names]
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_module_reads_pickles(path: Path) -> None:
    assert not {module.split(".")[0] for module, _ in imports(path)} & {"pickle", "dill", "joblib"}


def test_every_name_used_of_nvflare_exists() -> None:
    used = {item for path in MODULES for item in imports(path) if item[0].split(".")[0] == "nvflare"}
    assert len(used) > 10
    for module, name in sorted(used):
        loaded = importlib.import_module(module)
        assert not name or hasattr(loaded, name), f"{module} has no {name}"


def test_allow_list_names_what_our_jobs_use_of_us() -> None:
    for path in ALLOWED_CLASSES:
        module, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(module), name)


def test_files_stay_readable() -> None:
    long = {str(path.relative_to(SOURCE)): n for path in MODULES if (n := len(path.read_text().splitlines())) > 400}
    assert long == {}


NAMED = {"methods/registry.py", "methods/commands.py"}
"""The registry and the table of commands name every method that comes with Consilia."""


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_fedkim_and_fedgpl_are_named_in_their_packages_only(path: Path) -> None:
    place = str(path.relative_to(SOURCE))
    if place in NAMED or place.startswith(("methods/fedkim/", "methods/fedgpl/")):
        return
    text = path.read_text()
    if place.startswith("models/"):
        # Their networks are models like others; docstrings say whose they are.
        tree = ast.parse(text)
        named = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom | ast.Name)]
        text = " ".join(ast.unparse(node) for node in named)
    found = re.search(r"fed-?(kim|gpl)", text, re.IGNORECASE)
    assert found is None, f"{place} names {found[0] if found else ''}"
