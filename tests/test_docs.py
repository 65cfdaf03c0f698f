"""The documents: paths that exist, and a README that can be read in five minutes."""

from __future__ import annotations

import re

from tests.conftest import REPOSITORY


def test_the_architecture_page_names_files_that_exist() -> None:
    text = (REPOSITORY / "docs" / "architecture.md").read_text()
    paths = set(re.findall(r"`((?:custom|examples)/[\w/.]+\.py)`", text))
    assert len(paths) >= 8
    assert [path for path in sorted(paths) if not (REPOSITORY / path).is_file()] == []
    below = set(re.findall(r"`((?:federation|flare|methods|aggregation|core)/[\w/]+\.py)", text))
    assert [path for path in sorted(below) if not (REPOSITORY / "custom" / "consilia" / path).is_file()] == []


def test_the_readme_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text().split()) <= 900


def test_links_between_documents_lead_somewhere() -> None:
    broken = []
    for page in [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *(REPOSITORY / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text()):
            if not (page.parent / target).exists():
                broken.append(f"{page.name}: {target}")
    assert broken == []
