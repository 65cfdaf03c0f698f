"""What a language model with injected knowledge must beat: linear models and majorities, trained on the public data.

All are deterministic: the same data give the same probabilities.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from consilia.core.errors import DataError
from consilia.models.linear import pooled_features

Array = NDArray[np.float64]
STRENGTH = 0.01  # C of the logistic regression on standardised features: there are often more of them than cases
TEXT_STRENGTH = 1.0
ITERATIONS = 2000


def linear_probabilities(
    public_inputs: Tensor, public_labels: Tensor, test_inputs: Tensor, classes: int, *, steps_first: bool = False
) -> Array:
    """Probabilities (N, ``classes``) of ``test_inputs`` (N, ...) by logistic regression on :func:`features`.

    ``public_labels`` (M,) in 0..classes-1; a class that does not occur among them gets 0.

    Raises:
        DataError: no public cases, unlike shapes, values that are not finite, or a label outside the range.
    """
    from sklearn.preprocessing import StandardScaler

    if public_inputs.shape[1:] != test_inputs.shape[1:]:
        raise DataError(
            f"a linear baseline needs public and test cases of one shape, got {tuple(public_inputs.shape[1:])} and "
            f"{tuple(test_inputs.shape[1:])}"
        )
    labels = _labels(public_labels, len(public_inputs), classes)
    train, test = (features(inputs, steps_first=steps_first) for inputs in (public_inputs, test_inputs))
    scaler = StandardScaler().fit(train)
    return _regression(scaler.transform(train), labels, scaler.transform(test), classes, STRENGTH)


def text_probabilities(
    public_texts: Sequence[str], public_labels: Tensor, test_texts: Sequence[str], classes: int
) -> Array:
    """Probabilities (N, ``classes``) of ``test_texts`` by logistic regression on TF-IDF of words and pairs of words.

    Raises:
        DataError: no public texts, or a label outside 0..classes-1.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    labels = _labels(public_labels, len(public_texts), classes)
    # Any run of letters and digits is a word, so that no text is without one.
    vectors = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|\S").fit(public_texts)
    train, test = vectors.transform(public_texts), vectors.transform(test_texts)
    return _regression(train, labels, test, classes, TEXT_STRENGTH)


def majority_probabilities(public_labels: Tensor, count: int, classes: int) -> Array:
    """The classes' frequencies in the public data as the probabilities of every case, (``count``, ``classes``).

    Raises:
        DataError: no public labels, or a label outside 0..classes-1.
    """
    labels = _labels(public_labels, len(public_labels), classes)
    return np.tile(np.bincount(labels, minlength=classes) / len(labels), (count, 1))


def majority_answer(public_answers: Sequence[str]) -> str:
    """The most frequent answer of the public data; of equally frequent ones the first by alphabet.

    Raises:
        DataError: no public answers.
    """
    if not public_answers:
        raise DataError("the most frequent answer needs public answers, got none")
    return min(Counter(public_answers).items(), key=lambda item: (-item[1], item[0]))[0]


def features(inputs: Tensor, *, steps_first: bool = False) -> Array:
    """:func:`consilia.models.linear.pooled_features` of ``inputs`` (N, ...), as (N, F).

    Raises:
        DataError: a value is not finite, or inputs of another number of dimensions.
    """
    values = inputs.detach().cpu().float()
    if not values.isfinite().all():
        raise DataError("a linear baseline needs finite inputs, got NaN or infinity")
    try:
        return pooled_features(values, steps_first=steps_first).double().numpy()
    except ValueError as error:
        raise DataError(f"a linear baseline: {error}") from error


def _labels(labels: Tensor, cases: int, classes: int) -> NDArray[np.int64]:
    found: NDArray[np.int64] = labels.detach().cpu().numpy().astype(np.int64)
    if not len(found) or found.shape != (cases,) or found.min() < 0 or found.max() >= classes:
        raise DataError(
            f"a baseline needs a label from 0 to {classes - 1} for each of its public cases, at least one; "
            f"got {cases} cases and labels {sorted(set(found.ravel().tolist()))} of shape {found.shape}"
        )
    return found


def _regression(train: Any, labels: NDArray[np.int64], test: Any, classes: int, strength: float) -> Array:
    from sklearn.linear_model import LogisticRegression

    found = np.zeros((test.shape[0], classes))
    present = sorted(set(labels.tolist()))
    if len(present) == 1:
        found[:, present[0]] = 1.0  # a regression needs two classes
        return found
    model = LogisticRegression(C=strength, max_iter=ITERATIONS).fit(train, labels)
    found[:, present] = model.predict_proba(test)
    return found
