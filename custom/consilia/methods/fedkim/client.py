"""FedKIM at a site: encoders and heads are trained on the tasks that the site has; nothing else is sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from consilia.data.augmentation import Transform
from consilia.methods.client import Client, Round, proximal_term
from consilia.methods.contract import Update
from consilia.methods.fedkim.config import FedKIMConfig
from consilia.methods.fedkim.local_report import write_task_examples
from consilia.methods.fedkim.owners import owners
from consilia.methods.fit import Batch, shuffled
from consilia.methods.passes import EVERYTHING
from consilia.methods.tasks import Network, Predictions, network_of


class FedKIMClient(Client[FedKIMConfig]):
    """Local training of several tasks: batches of one task each, in an order drawn over all of them.

    The loss of a batch is the task's cross-entropy, and with ``mu`` > 0 the proximal term over the encoders and the
    head of that task.
    """

    def train(self, round_: Round) -> Update:
        """Train the site's tasks; with ``mu`` > 0 the global parameters are kept as anchors."""
        self.load(round_.state)
        self._anchor = self.copy_of_parameters() if self.config.mu else {}
        result = self.fit(round_)
        # The site may have test cases of other tasks: encoders and heads of those that it trains are sent.
        mine = {task for task, dataset in self.data.datasets.items() if len(dataset.train)}
        sent = [name for name in self.shared if mine.intersection(owners(name, self.config.task_definitions))]
        return replace(self.update(result), state=self.state(sent))

    def loss(self, batch: Batch) -> Tensor:
        """Cross-entropy of one batch of one task: scalar."""
        loss = super().loss(batch)
        if self.config.mu:
            own = {
                name: parameter
                for name, parameter in self.parameters.items()
                if batch.dataset in owners(name, self.config.task_definitions)
            }
            loss = loss + proximal_term(own, self._anchor, self.config.mu)
        return loss

    def network_for(self, dataset: str) -> Network:
        """The encoders that a task reads and its head."""
        return network_of(partial(self.model, task=dataset))

    def batches(
        self, order: torch.Generator, transform: Transform | None = None, part: slice = EVERYTHING
    ) -> Iterator[Batch]:
        """One pass over the training cases: batches of one task each, in an order drawn over all of them."""
        plan = [
            (task, dataset.train.with_transform(transform), indices)
            for task, dataset in sorted(self.data.datasets.items())
            if len(dataset.train)
            for indices in shuffled(len(dataset.train), self.training.batch_size, order, self.training.last_batch)
        ]
        for place in torch.randperm(len(plan), generator=order).tolist()[part]:
            task, split, indices = plan[place]
            inputs, labels = (part.to(self.device) for part in split.batch(indices))
            yield Batch(inputs, labels, task)

    def report(
        self,
        path: Path,
        predictions: Mapping[str, Mapping[str, Predictions]],
        attention: Tensor | None,
        thresholds: Mapping[str, float | None] | None = None,
    ) -> None:
        """The first test cases of every task, with the predictions of the global extractor."""
        write_task_examples(path, self.data, predictions["global"], self.config.task_definitions)
