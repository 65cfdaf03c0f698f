"""FedKIM at a site: encoders and heads are trained on the tasks that the site has; nothing else is sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from consilia.data.augmentation import Transform
from consilia.data.dataset import SiteData, Split
from consilia.data.tasked import TaskedData, TaskedSplit
from consilia.evaluation.classification import classification_metrics
from consilia.methods.client import Client, Round, proximal_term, try_inputs
from consilia.methods.contract import Update
from consilia.methods.fedkim.config import FedKIMConfig
from consilia.methods.fedkim.local_report import write_task_examples
from consilia.methods.fedkim.owners import owners
from consilia.methods.fit import Batch, shuffled
from consilia.methods.tasks import Predictions


class FedKIMClient(Client[FedKIMConfig]):
    """Local training of several tasks: batches of one task each, in an order drawn over all of them.

    The loss of a batch is the task's cross-entropy, and with ``mu`` > 0 the proximal term over the encoders and the
    head of that task.
    """

    data: TaskedData  # type: ignore[assignment]

    def train(self, round_: Round) -> Update:
        """Train the site's tasks; with ``mu`` > 0 the global parameters are kept as anchors."""
        self.load(round_.state)
        self._anchor = self.copy_of_parameters() if self.config.mu else {}
        result = self.fit(round_)
        # The site may have test cases of other tasks: encoders and heads of those that it trains are sent.
        mine = {task for task, cases in self.data.training_cases().items() if cases}
        sent = [name for name in self.shared if mine.intersection(owners(name, self.config.task_definitions))]
        return replace(self.update(result), state=self.state(sent))

    def loss(self, batch: Batch) -> Tensor:
        """Cross-entropy of one batch of one task: scalar."""
        weights = self.class_weights.get(batch.dataset)
        loss = functional.cross_entropy(self.model(batch.inputs, batch.dataset), batch.labels, weight=weights)
        if self.config.mu:
            own = {
                name: parameter
                for name, parameter in self.parameters.items()
                if batch.dataset in owners(name, self.config.task_definitions)
            }
            loss = loss + proximal_term(own, self._anchor, self.config.mu)
        return loss

    def datasets(self) -> Mapping[str, SiteData]:
        """One per task."""
        return self.data.tasks

    def batches(self, order: torch.Generator, transform: Transform | None = None) -> Iterator[Batch]:
        """One pass over the training cases: batches of one task each, in an order drawn over all of them."""
        plan = [
            (task, indices)
            for task, data in sorted(self.data.tasks.items())
            if len(data.train)
            for indices in shuffled(len(data.train), self.training.batch_size, order)
        ]
        for place in torch.randperm(len(plan), generator=order).tolist():
            task, indices = plan[place]
            inputs, labels = (part.to(self.device) for part in self.data.tasks[task].train.batch(indices, transform))
            yield Batch(inputs, labels, task)

    @torch.no_grad()
    def predict(self, split: TaskedSplit) -> dict[str, Tensor]:  # type: ignore[override]
        """Logits (N, answers) by task, on the CPU."""
        self.model.eval()
        found = {}
        for task, part in split.parts.items():
            pieces = [self.model(piece, task).float().cpu() for _, piece in self.pieces(part)]
            found[task] = torch.cat(pieces) if pieces else torch.zeros(0, self.method.datasets()[task])
        return found

    def evaluate(  # type: ignore[override]
        self, predictions: Mapping[str, Tensor], split: TaskedSplit, *, slow: bool = False
    ) -> dict[str, Any] | None:
        """Metrics over all cases and tasks, and of each task."""
        found = {task: classification_metrics(predictions[task], part.labels) for task, part in split.parts.items()}
        return combined({task: metrics for task, metrics in found.items() if metrics is not None})

    def is_correct(self, predictions: Mapping[str, Tensor], split: TaskedSplit) -> None:  # type: ignore[override]
        """Flips are not counted over tasks of unlike cases."""

    def report(self, path: Path, predictions: Mapping[str, Predictions], attention: Tensor | None) -> None:
        """The first test cases of every task, with the predictions of the global extractor."""
        write_task_examples(path, self.data, predictions["global"], self.config.task_definitions)

    def check_model(self) -> None:
        """Raise :class:`ConfigError` unless every head takes its task's inputs."""
        if self.augmentation is not None:
            self.augmentation.check_several({name: data.train.inputs for name, data in self.datasets().items()})
        for task, data in self.data.tasks.items():
            split = data.test if data.is_test_only else data.train
            probe = Split(split.inputs[:1], split.labels[:1], split.case_ids[:1])
            try_inputs(partial(self.predict, TaskedSplit({task: probe})), self.model, probe)


def combined(tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Metrics of several tasks as one: cases are summed, means are over the tasks where a metric is defined."""
    if not tasks:
        return None
    count, correct = (sum(metrics[key] for metrics in tasks.values()) for key in ("count", "correct"))
    means = {}
    for key in ("balanced_accuracy", "auroc", "loss"):
        defined = [metrics[key] for metrics in tasks.values() if metrics[key] is not None]
        means[key] = sum(defined) / len(defined) if defined else None
    return {"count": count, "correct": correct, "accuracy": correct / count, **means, "tasks": dict(tasks)}
