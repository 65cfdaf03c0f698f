"""FedKIM's report at a site: the first test cases of every task with the predictions of the global extractor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from consilia.data.dataset import SiteData
from consilia.methods.fedkim.answers_page import closed_example, write_answers
from consilia.methods.fedkim.task_definitions import TaskDefinitions
from consilia.methods.tasks import Predictions
from consilia.methods.tasks.classification import LOGITS
from consilia.report.pictures import picture

EXAMPLES = 6
"""Test cases of each task that a site with several tasks shows."""


def write_task_examples(
    path: Path, data: SiteData, predictions: Mapping[str, Predictions], task_definitions: TaskDefinitions
) -> None:
    """Write the first test cases of every task with the predictions of the global extractor, by task."""
    shown = []
    for name, own in sorted(data.datasets.items()):
        task = task_definitions.tasks[name]
        for place, row in enumerate(predictions[name][LOGITS][:EXAMPLES].double().softmax(dim=1)):
            truth = task.answers[int(own.test.labels[place])]
            likely = dict(zip(task.answers, row.tolist(), strict=True))
            example = closed_example(name, task.modalities, task.question, truth, likely)
            shown.append({**example, "picture": picture(own.test.inputs[place])})
    write_answers(path, shown)
