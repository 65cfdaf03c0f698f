"""The documents: the paths, links, tests, keys, checks and commands in them exist; the README is short."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from consilia.cli.app import app
from consilia.data.limits import NOT_BUILT, SiteLimits
from tests.conftest import REPOSITORY

DOCS = REPOSITORY / "docs"
PAGES = sorted([*REPOSITORY.glob("*.md"), *DOCS.glob("*.md"), *(REPOSITORY / "site_configs").glob("*.md")])
SOURCES = {path: path.read_text() for path in (REPOSITORY / "tests").rglob("test_*.py")}
TESTS = {name for text in SOURCES.values() for name in re.findall(r"^def (test_\w+)", text, re.MULTILINE)}


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub links them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """Where a page's links lead: file, heading or empty."""
    for place, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", page.read_text()):
        yield (page.parent / place).resolve() if place else page, anchor


def test_the_architecture_page_names_files_that_exist() -> None:
    text = (DOCS / "architecture.md").read_text()
    paths = set(re.findall(r"`((?:custom|examples)/[\w/.]+\.py)`", text))
    assert len(paths) >= 8
    assert [path for path in sorted(paths) if not (REPOSITORY / path).is_file()] == []
    below = set(re.findall(r"`((?:federation|flare|methods|aggregation|core)/[\w/]+\.py)", text))
    assert [path for path in sorted(below) if not (REPOSITORY / "custom" / "consilia" / path).is_file()] == []


def test_the_readme_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text().split()) <= 900


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_documents_lead_somewhere(page: Path) -> None:
    found = list(links(page))
    assert [str(target) for target, _ in found if not target.exists()] == []
    headings = {target: anchors(target) for target, _ in found if target.suffix == ".md"}
    assert [f"{target.name}#{anchor}" for target, anchor in found if anchor and anchor not in headings[target]] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_tests_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text()
    files = {path.relative_to(REPOSITORY).as_posix() for path in SOURCES}
    named = re.findall(r"`(?:(tests/[\w/]*test_\w+\.py)|(test(?:_[a-z0-9]+){3,}))`", text)
    assert [file for file, _ in named if file and file not in files] == []
    assert [name for _, name in named if name and name not in TESTS] == []


def test_every_limit_has_its_row() -> None:
    text = (DOCS / "limits.md").read_text()
    assert [name for name in SiteLimits.model_fields if f"| `{name}` |" not in text] == []
    assert [name for name in NOT_BUILT if f"`{name}`" not in text] == []


def test_every_command_has_its_row() -> None:
    text = (DOCS / "cli.md").read_text()
    (site,) = (group.typer_instance for group in app.registered_groups if group.name == "site")
    groups = {"consilia": app, "consilia site": site}
    commands = [
        f"{group} {item.name or getattr(item.callback, '__name__', '')}"
        for group, typer in groups.items()
        for item in typer.registered_commands
    ]
    assert len(commands) > 15
    assert [name for name in commands if not re.search(rf"^\| \[?`{name}\b", text, re.MULTILINE)] == []


def checks() -> set[str]:
    """The names of the doctor's checks, as its source has them; what follows a name, as of a dataset, left out."""
    found = set()
    for path in (REPOSITORY / "custom" / "consilia" / "deploy" / "doctor").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("ok", "warning", "failed"):
                found.add(node.args[0])
            elif isinstance(node, ast.Assign):
                targets = node.targets[0].elts if isinstance(node.targets[0], ast.Tuple) else node.targets
                values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
                named = zip(targets, values, strict=False)
                found |= {value for target, value in named if getattr(target, "id", "") in ("check", "CHECK")}
    texts = (node.values[0] if isinstance(node, ast.JoinedStr) else node for node in found)
    return {str(node.value).strip() for node in texts if isinstance(node, ast.Constant)}


def test_every_check_of_the_doctor_has_its_row() -> None:
    _, _, section = (DOCS / "deploy.md").read_text().partition("## What the doctor checks")
    rows = [line.split("|")[1] for line in section.partition("\n## ")[0].splitlines() if line.startswith("| ")]
    names = {part.strip().partition(" (")[0].removesuffix(" NAME") for row in rows for part in row.split(", ")}
    assert len(checks()) > 25
    assert sorted(checks() - names) == []
