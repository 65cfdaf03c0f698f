"""The house itself: imports only point down, NVFlare stays on its floor, and every name used of NVFlare exists."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

from consilia.recipes import ALLOWED_CLASSES
from tests.conftest import REPOSITORY

SOURCE = REPOSITORY / "custom" / "consilia"
FLOORS = {
    "core": 0,
    "aggregation": 0.5,
    "record": 0.5,
    "data": 1,
    "models": 1,
    "evaluation": 1,
    "report": 1,
    "methods": 2,
    "federation": 2.5,
    "flare": 3,
    "recipes": 4,
    "cli": 4.5,
}
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


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_only_point_down(path: Path) -> None:
    here = path.relative_to(SOURCE).parts[0]
    if here not in FLOORS:
        return
    for module, _ in imports(path):
        if module.startswith("consilia."):
            assert FLOORS[room(module)] <= FLOORS[here], f"{path.name} imports {module} from above"
        if module.split(".")[0] == "nvflare":
            assert here == "flare", f"{path.name} imports {module}: only flare/ may"
        assert module.split(".")[0] not in ("pickle", "dill", "joblib"), f"{path.name} imports {module}"


def test_every_room_has_a_floor() -> None:
    rooms = {path.name for path in SOURCE.iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    assert rooms == set(FLOORS)


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
