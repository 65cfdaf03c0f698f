"""Metrics of open answers: texts that a model wrote against the texts that were expected, with intervals by patient.

BLEU-1 and METEOR come from NLTK, which has corpora and models to download but needs none of them here: words are found
by a pattern, and METEOR gets a thesaurus that knows no synonyms.
"""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from consilia.core.errors import ConfigError, DataError
from consilia.evaluation.bootstrap import grouped, intervals

METRICS = ("bleu1", "rouge1", "meteor", "exact")
_WORD = re.compile(r"[^\W_]+")  # letters and digits of any script


def require_nltk() -> None:
    """Ask before a run that will end with open questions, rather than find out after it.

    Raises:
        ConfigError: NLTK is not installed.
    """
    if importlib.util.find_spec("nltk") is None:
        raise ConfigError("metrics of open answers need NLTK: pip install 'consilia[language]'")


def open_metrics(
    predictions: Sequence[str],
    references: Sequence[str],
    patients: Sequence[str],
    *,
    seed: int = 0,
    resamples: int = 1000,
) -> dict[str, Any]:
    """Metrics of ``predictions`` (N) against ``references`` (N), as means over all of them: an empty one counts 0.

    Keys: ``count``, ``patients``; ``bleu1``, ``rouge1``, ``meteor`` and ``exact`` (see :func:`scores`); ``intervals``,
    by metric. ``patients`` empty: each case is a patient.

    Raises:
        ConfigError: NLTK is not installed.
        DataError: no cases, unlike numbers of them, or a reference without any word.
    """
    require_nltk()
    if len(predictions) != len(references) or not references:
        raise DataError(
            f"metrics of open answers need as many answers as references, at least one; got {len(predictions)} and "
            f"{len(references)}"
        )
    groups = grouped(patients, len(references))
    pairs = zip(predictions, references, strict=True)
    table = np.array([scores(*pair) for pair in pairs])
    return {
        "count": len(references),
        "patients": int(groups.max()) + 1,
        **{name: float(table[:, place].mean()) for place, name in enumerate(METRICS)},
        "intervals": intervals(
            lambda weights: dict(zip(METRICS, (weights @ table / weights.sum(axis=1, keepdims=True)).T, strict=True)),
            groups,
            seed=seed,
            resamples=resamples,
        ),
    }


def scores(prediction: str, reference: str) -> tuple[float, float, float, float]:
    """BLEU-1, ROUGE-1, METEOR and exact match of one answer, each 0 if it has no word; case and signs do not count.

    BLEU-1: share of the answer's words that the reference has too (clipped counts), times the brevity penalty
    exp(1 - r/c) of an answer of c < r words. ROUGE-1: F1 of the clipped counts. METEOR: exact words, then stems
    (Porter); alpha 0.9, beta 3, gamma 0.5, so that even an equal answer of one word gets 0.5.

    Raises:
        DataError: the reference has no word.
    """
    said, expected = words(prediction), words(reference)
    if not expected:
        raise DataError(f"an open answer's reference needs at least one letter or digit, got {reference!r}")
    shared = sum((Counter(said) & Counter(expected)).values())
    if not said:
        return 0.0, 0.0, 0.0, 0.0
    rouge = 2 * shared / (len(said) + len(expected))
    return _bleu(said, expected) if shared else 0.0, rouge, _meteor(said, expected), float(said == expected)


def words(text: str) -> list[str]:
    """The runs of letters and digits of ``text``, in lower case."""
    return _WORD.findall(text.lower())


def _bleu(said: list[str], expected: list[str]) -> float:
    from nltk.translate.bleu_score import sentence_bleu

    return float(sentence_bleu([expected], said, weights=(1.0,)))


def _meteor(said: list[str], expected: list[str]) -> float:
    from nltk.translate.meteor_score import single_meteor_score

    return float(single_meteor_score(expected, said, stemmer=_stemmer(), wordnet=_NoSynonyms()))


@cache
def _stemmer() -> Any:
    from nltk.stem import PorterStemmer

    return PorterStemmer()


class _NoSynonyms:
    """Stands in for WordNet, which would have to be downloaded."""

    def synsets(self, _: str) -> tuple[()]:
        return ()
