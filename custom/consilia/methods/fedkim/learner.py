"""FedKIM at a site: encoders and heads are trained on the tasks that the site has; nothing else is sent."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from consilia.data.dataset import Split
from consilia.data.tasked import TaskedData, TaskedSplit
from consilia.evaluation.classification import classification_metrics
from consilia.methods.fedkim.catalogue import Catalogue
from consilia.methods.fedkim.config import FedKIMConfig
from consilia.methods.fedprox.learner import proximal_term
from consilia.methods.learner import Learner, batches, tried
from consilia.models.extractor import ENCODER, HEAD


class FedKIMLearner(Learner[FedKIMConfig]):
    """Local training of several tasks: batches of one task each, in an order drawn over all of them.

    The loss of a batch is the task's cross-entropy, and with ``mu`` > 0 the proximal term over the encoders and the
    head of that task.
    """

    personal = False
    data: TaskedData  # type: ignore[assignment]

    @classmethod
    def tells(cls, config: FedKIMConfig) -> frozenset[str]:
        """No flips, since :meth:`right` does not count them."""
        return frozenset()

    def begin(self) -> None:
        """Keep the global parameters of the site's tasks as anchors."""
        self._parameters = {
            task: [
                parameter
                for name, parameter in self.model.named_parameters()
                if task in owners(name, self.config.catalogue)
            ]
            for task in self.data.tasks
        }
        if self.config.mu:
            self._anchors = {
                task: [parameter.detach().clone() for parameter in own] for task, own in self._parameters.items()
            }

    def state(self) -> dict[str, Tensor]:
        """A copy of the encoders and heads of the tasks that the site trains; it may have test cases of others."""
        mine = {task for task, cases in self.data.training_cases().items() if cases}
        return {
            name: tensor
            for name, tensor in super().state().items()
            if mine.intersection(owners(name, self.config.catalogue))
        }

    def task_loss(self, inputs: Tensor, labels: Tensor, task: str) -> Tensor:
        """Loss of one batch of one task: scalar."""
        loss = functional.cross_entropy(self.model(inputs, task), labels)
        if self.config.mu:
            loss = loss + proximal_term(self._parameters[task], self._anchors[task], self.config.mu)
        return loss

    @torch.no_grad()
    def answers(self, split: TaskedSplit) -> dict[str, Tensor]:  # type: ignore[override]
        """Logits (N, answers) by task, on the CPU."""
        self.model.eval()
        found = {}
        for task, part in split.parts.items():
            pieces = [self.model(piece, task).float().cpu() for _, piece in self.pieces(part)]
            found[task] = torch.cat(pieces) if pieces else torch.zeros(0, self.config.tasks()[task])
        return found

    def measure(  # type: ignore[override]
        self, answers: Mapping[str, Tensor], split: TaskedSplit, *, thorough: bool = False
    ) -> dict[str, Any] | None:
        """Figures over all cases and tasks, and of each task."""
        found = {task: classification_metrics(answers[task], part.labels) for task, part in split.parts.items()}
        return combined({task: metrics for task, metrics in found.items() if metrics is not None})

    def right(self, answers: Mapping[str, Tensor], split: TaskedSplit) -> None:  # type: ignore[override]
        """Flips are not counted over tasks of unlike cases."""

    def check_model(self) -> None:
        """Raise :class:`ConfigError` unless every head takes its task's inputs."""
        for task, data in self.data.tasks.items():
            split = data.test if data.is_evaluator else data.train
            probe = Split(split.inputs[:1], split.labels[:1], split.case_ids[:1])
            tried(partial(self.answers, TaskedSplit({task: probe})), self.model, probe)

    def _epoch(self, optimiser: torch.optim.Optimizer, order: torch.Generator) -> float:
        self.model.train()
        plan = [
            (task, indices)
            for task, data in sorted(self.data.tasks.items())
            if len(data.train)
            for indices in batches(len(data.train), self.training.batch_size, order)
        ]
        total = torch.zeros((), device=self.device)
        for place in torch.randperm(len(plan), generator=order).tolist():
            task, indices = plan[place]
            train = self.data.tasks[task].train
            inputs, labels = (part.to(self.device) for part in train.batch(indices))
            total += self.step(optimiser, self.task_loss(inputs, labels, task)) * len(indices)
        return float(total) / len(self.data.train)


def owners(name: str, catalogue: Catalogue) -> tuple[str, ...]:
    """The seen tasks that train a tensor of the extractor: those of its encoder's modality, or its head's."""
    for prefix in (ENCODER, HEAD):
        if name.startswith(prefix):
            own = name.removeprefix(prefix).split(".", 1)[0]
            return catalogue.trained_on(own) if prefix == ENCODER else (own,)
    return ()


def combined(tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Figures of several tasks as one: cases are summed, means are over the tasks where a figure is defined."""
    if not tasks:
        return None
    count, correct = (sum(metrics[key] for metrics in tasks.values()) for key in ("count", "correct"))
    means = {}
    for key in ("balanced_accuracy", "auroc", "loss"):
        defined = [metrics[key] for metrics in tasks.values() if metrics[key] is not None]
        means[key] = sum(defined) / len(defined) if defined else None
    return {"count": count, "correct": correct, "accuracy": correct / count, **means, "tasks": dict(tasks)}
