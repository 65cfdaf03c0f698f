"""One word for one thing: words that this project does not use, in identifiers, keys, help texts and documents."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from consilia.cli.app import app
from tests.conftest import REPOSITORY

SOURCE = REPOSITORY / "custom" / "consilia"
WORDS = {
    "yardstick": "baseline",
    "merit": "primary metric",
    "evaluators?": "test-only site",
    "gate_cap": "max_kd_weight",
    "individuality": "prompt diversity",
    "mean_query": "mean-prompt ablation",
    "conclude": "finish",
    "workplace": "server context",
    "intake": "update validation",
    "admission": "client enrolment",
    "keeper": "recorder",
    "shots": "few-shot",
    "catalogue": "task definitions",
    "storey": "layer",
    "furniture": "structure",
    "dataset[ _]roles?": "dataset",
    "figures": "metrics",
    "outgoing": "release manifest",
}
"""Not to be used, and what to say instead; as a whole word or as a part of an identifier between underscores."""

NO_NAMES = {"tell|tells|told": "progress, reported", "kept": "saved, checkpoint entry"}
"""Words of ordinary sentences that say nothing as the name of a function, a class or a variable."""


def pattern(words: Iterable[str]) -> re.Pattern[str]:
    return re.compile(rf"(?<![a-z])({'|'.join(words)})(?![a-z])", re.IGNORECASE)


FORBIDDEN = pattern(WORDS)
KINDS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def identifiers(path: Path) -> Iterator[str]:
    yield path.stem
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, KINDS):
            yield re.sub(r"(?<=[a-z])(?=[A-Z])", "_", node.name)
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def found_in(texts: Iterable[str], forbidden: re.Pattern[str] = FORBIDDEN) -> list[str]:
    hits = ((text, forbidden.search(text)) for text in texts)
    return sorted({f"{text.strip()[:80]!r}: not {hit[0]}" for text, hit in hits if hit})


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_identifiers(path: Path) -> None:
    assert found_in(identifiers(path), pattern([*WORDS, *NO_NAMES])) == []


def test_the_check_finds_a_word_within_an_identifier() -> None:
    names = ["run_yardstick", "Catalogue", "is_evaluator", "meritorious", "packaging"]
    assert len(found_in(names)) == 3


@pytest.mark.parametrize("command", ["", *sorted(item.name or "" for item in app.registered_commands), "site"])
def test_help_texts(command: str) -> None:
    shown = CliRunner().invoke(app, [*([command] if command else []), "--help"])
    assert shown.exit_code == 0
    assert found_in(shown.output.splitlines()) == []


PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_documents(page: Path) -> None:
    assert found_in(page.read_text().splitlines()) == []


def keys(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key, below in value.items():
            yield str(key)
            yield from keys(below)
    elif isinstance(value, list):
        for below in value:
            yield from keys(below)


PLACES = ((SOURCE, "*.yaml"), (REPOSITORY / "configs", "*.yaml"), (REPOSITORY / "jobs", "*.json"))
FILES = sorted(path for place, pattern in PLACES for path in place.rglob(pattern))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_keys_of_configurations(path: Path) -> None:
    assert found_in(list(keys(yaml.safe_load(path.read_text())))) == []
