"""Examples of a language model's answers. They show single cases: written where the cases are, for who may see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from consilia.core.errors import DataError
from consilia.core.files import write_bytes
from consilia.report.html import fill
from consilia.report.pictures import thumbnail

ANSWERS = "answers.html"
LONGEST = 1200  # characters of a question that are shown; an abstract may be much longer


def write_answers(path: Path, examples: Sequence[Mapping[str, Any]]) -> None:
    """Write an HTML page of examples, by task in the order given, that only its owner can read.

    Each example has ``task``, ``modalities`` (names), ``question``, ``truth`` and ``answer`` (texts), ``probabilities``
    (candidate -> probability; None or empty where the answer is free text), and may have a ``picture``: images (H, W),
    (H, W, 1 or 3) or (1 or 3, H, W), or leads by samples (C, T).

    Raises:
        DataError: a key is missing, or a picture has another shape.
    """
    by_task: dict[str, list[dict[str, Any]]] = {}
    for number, example in enumerate(examples):
        shown = _shown(example, number)
        by_task.setdefault(shown["task"], []).append(shown)
    write_bytes(path, fill(Path(__file__).parent, ANSWERS, tasks=by_task, count=len(examples)).encode(), private=True)


def closed_example(
    task: str, modalities: Sequence[str], question: str | None, truth: str, probabilities: Mapping[str, float]
) -> dict[str, Any]:
    """An example whose answer is the likeliest candidate; a picture is the caller's to add."""
    return {
        "task": task,
        "modalities": modalities,
        "question": question,
        "truth": truth,
        "answer": max(probabilities, key=lambda answer: probabilities[answer]),
        "probabilities": probabilities,
    }


def _shown(example: Mapping[str, Any], number: int) -> dict[str, Any]:
    needed = ("task", "modalities", "question", "truth", "answer", "probabilities")
    if missing := [key for key in needed if key not in example]:
        raise DataError(f"example {number} of the answers lacks {', '.join(missing)}")
    question = str(example["question"])
    picture = example.get("picture")
    ranked = sorted((example["probabilities"] or {}).items(), key=lambda item: -item[1])
    truth, answer = str(example["truth"]), str(example["answer"])
    return {
        "task": str(example["task"]),
        "modalities": [str(name) for name in example["modalities"]],
        "question": question if len(question) <= LONGEST else question[:LONGEST].rstrip() + " …",
        "truth": truth,
        "answer": answer,
        "right": truth.strip().lower() == answer.strip().lower(),
        "probabilities": ranked,
        "picture": None if picture is None else _picture(np.asarray(picture), number),
    }


def _picture(values: np.ndarray, number: int) -> str:
    """An image as a small PNG; two axes of which the first is short are leads over time, drawn as curves."""
    if values.ndim == 2 and len(values) <= 16 < values.shape[1]:
        from consilia.methods.fedkim.plots import leads

        return leads(values) or ""
    if values.ndim == 2:
        values = values[None]
    elif values.ndim == 3 and values.shape[2] in (1, 3) and values.shape[0] not in (1, 3):
        values = values.transpose(2, 0, 1)
    if values.ndim != 3 or values.shape[0] not in (1, 3):
        raise DataError(
            f"example {number} of the answers: expected a picture (H, W), (H, W, 3) or (3, H, W), got {values.shape}"
        )
    return thumbnail(torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)))
