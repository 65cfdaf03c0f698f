"""Private names of NVFlare's are used in one file."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

SOURCE = REPOSITORY / "custom"
PACKAGES = [SOURCE / "consilia" / name for name in ("flare", "deploy")]
INTERNALS = SOURCE / "consilia" / "flare" / "nvflare_internals.py"
OTHERS = sorted(path for package in PACKAGES for path in package.rglob("*.py") if path != INTERNALS)


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_uses(text: str) -> list[str]:
    """``nvflare.private`` in a string or an import, an imported name with an underscore, and ``thing._name``."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom | ast.Import):
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            names = [f"{module}.{alias.name}" if module else alias.name for alias in node.names]
            found += [name for name in names if name.startswith("nvflare.") and (".private" in name or "._" in name)]
        elif (
            isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("nvflare.private")
        ):
            found.append(node.value)
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            owner = node.value
            if not (isinstance(owner, ast.Name) and owner.id in ("self", "cls")):
                found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("from nvflare.private.defs import Keys", ["nvflare.private.defs.Keys"]),
        ("from nvflare.apis.workspace import _Hidden", ["nvflare.apis.workspace._Hidden"]),
        ("import nvflare._secret", ["nvflare._secret"]),
        ("session._api.login()", ["session._api"]),
        ("super()._process_result(task)", ["super()._process_result"]),
        ("word.startswith('nvflare.private.fed.app.')", ["nvflare.private.fed.app."]),
        ("from nvflare.apis.dxo import DXO; self._mine = DXO.__name__", []),
    ],
)
def test_a_private_use_is_seen(line: str, found: list[str]) -> None:
    assert private_uses(line) == found


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_private_name_of_nvflare_elsewhere(path: Path) -> None:
    assert private_uses(path.read_text()) == []


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_class_elsewhere_overrides_a_private_method_of_nvflare(path: Path) -> None:
    name = ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
    for _, found in inspect.getmembers(importlib.import_module(name), inspect.isclass):
        if found.__module__ == name:
            own = {attribute for attribute, value in vars(found).items() if is_private(attribute) and callable(value)}
            for base in found.__mro__:
                if base.__module__.startswith("nvflare"):
                    assert own.isdisjoint(vars(base)), f"{found.__name__} overrides private names of {base}"


def test_the_file_with_private_names_has_some() -> None:
    assert len(private_uses(INTERNALS.read_text())) >= 6
