"""Metrics of open answers, worked out by hand from the published formulas; nothing may be downloaded."""

from __future__ import annotations

import importlib.util
import math
import socket

import pytest

from consilia.core.errors import ConfigError, DataError
from consilia.evaluation.answers import open_metrics
from consilia.evaluation.open_answers import require_nltk, scores, words


def test_words_are_letters_and_digits_in_lower_case() -> None:
    assert words("Left-sided, 3 cm (T2_w) Ödem!") == ["left", "sided", "3", "cm", "t2", "w", "ödem"]


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        # One word that is right: METEOR's penalty is 0.5 for one chunk of one match.
        ("Pneumonia.", "pneumonia", (1.0, 1.0, 0.5, 1.0)),
        # Clipped: 1 of 3 words. ROUGE-1: 2 x 1 / (3 + 2). METEOR: P 1/3, R 1/2, F = PR / (0.9 P + 0.1 R), halved.
        ("the the the", "the lung", (1 / 3, 2 / 5, 0.5 * (1 / 6) / (0.3 + 0.05), 0.0)),
        # Too short: precision 1, brevity penalty exp(1 - 4/2); one chunk of two: penalty 0.5 / 8.
        (
            "left lung",
            "in the left lung",
            (math.exp(-1), 4 / 6, (1 - 0.5 / 8) * 0.5 / (0.9 + 0.05), 0.0),
        ),
        # Only the stem agrees, and only METEOR knows stems.
        ("effusions", "effusion", (0.0, 0.0, 0.5, 0.0)),
        # Synonyms count for nothing: no thesaurus is at hand.
        ("physician", "doctor", (0.0, 0.0, 0.0, 0.0)),
        ("?", "yes", (0.0, 0.0, 0.0, 0.0)),
    ],
)
def test_by_hand(prediction: str, reference: str, expected: tuple[float, ...]) -> None:
    assert scores(prediction, reference) == pytest.approx(expected)


def test_an_empty_output_counts_nought_in_every_mean() -> None:
    found = open_metrics(["liver", "", "liver", ""], ["liver"] * 4, ["p", "q", "r", "s"])
    assert (found["count"], found["patients"]) == (4, 4)
    assert (found["bleu1"], found["rouge1"], found["meteor"], found["exact"]) == (0.5, 0.5, 0.25, 0.5)
    assert found["intervals"]["exact"] == [0.0, 1.0]
    assert found["intervals"]["meteor"] == [0.0, 0.5]


def test_patients_are_drawn() -> None:
    found = open_metrics(["liver", "liver", "x", "x"] * 10, ["liver"] * 40, ["p", "p", "q", "q"] * 10)
    assert found["patients"] == 2
    assert found["intervals"]["exact"] == [0.0, 1.0]


def test_no_network_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a metric opened a socket")

    monkeypatch.setattr(socket, "socket", refuse)
    assert scores("two masses", "two mass lesions")[2] > 0


def test_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    require_nltk()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'consilia\[language\]'"):
        open_metrics(["a"], ["a"], ())


def test_bad_input() -> None:
    with pytest.raises(DataError, match="got 1 and 2"):
        open_metrics(["a"], ["a", "b"], ())
    with pytest.raises(DataError, match="at least one letter or digit"):
        open_metrics(["a"], ["..."], ())
