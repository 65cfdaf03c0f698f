"""The page of example answers: escaped, private, self-contained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from consilia.core.errors import DataError
from consilia.methods.fedkim.answers_page import LONGEST, write_answers
from tests.report.reading import assert_self_contained, read


def example(**changes: Any) -> dict[str, Any]:
    return {
        "task": "pneumonia",
        "modalities": ["image"],
        "question": "Is <b>this</b> & that?",
        "truth": "yes",
        "answer": "no",
        "probabilities": {"yes": 0.25, "no": 0.75},
        **changes,
    }


def test_examples_are_shown_escaped_and_kept_private(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    free = {"question": "x" * 3000, "answer": "", "probabilities": None}
    write_answers(
        tmp_path / "answers.html",
        [
            example(picture=rng.random((8, 9))),
            example(picture=rng.random((8, 9, 3)), answer="Yes"),
            example(picture=rng.random((3, 8, 9))),
            example(task="ecg", modalities=["signal"], picture=rng.random((12, 200))),
            example(task="questions", modalities=["text"], **free),
        ],
    )
    html = (tmp_path / "answers.html").read_text(encoding="utf-8")
    assert_self_contained(html)
    reader = read(html)
    assert "Is <b>this</b> & that?" in reader.text
    assert "yes no no 75.0 % yes 25.0 %" in reader.text  # expected, answered, most probable first
    assert "(nothing)" in reader.text
    assert "x" * LONGEST + " …" in reader.text
    assert len(reader.addresses) == 4
    assert html.count("<b>no</b>") == 3  # the wrong ones stand out
    assert "<b>Yes</b>" not in html
    assert (tmp_path / "answers.html").stat().st_mode & 0o077 == 0


def test_bad_examples(tmp_path: Path) -> None:
    short = example()
    del short["truth"], short["answer"]
    with pytest.raises(DataError, match="example 1 of the answers lacks truth, answer"):
        write_answers(tmp_path / "answers.html", [example(), short])
    with pytest.raises(DataError, match=r"example 0 .* got \(2, 30, 30, 4\)"):
        write_answers(tmp_path / "answers.html", [example(picture=np.zeros((2, 30, 30, 4)))])
