"""The site's half of a method: local training, shared by all methods; each overrides its loss and its score."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from consilia.core.determinism import generator, seeded
from consilia.core.errors import ConsiliaError
from consilia.core.update import Update
from consilia.data.dataset import SiteData, Split
from consilia.methods.config import MethodConfig, TrainingConfig

EVALUATION_BATCH = 256

C = TypeVar("C", bound=MethodConfig)


class TrainingStopped(ConsiliaError):
    """Local training was told to stop (the job was aborted or the round timed out)."""


def never() -> bool:
    """The stop signal of an engine that cannot be aborted."""
    return False


class Learner(Generic[C]):
    """Trains one site's model from the global state; plain cross-entropy unless a method overrides :meth:`loss`.

    Args:
        model: the network; its parameters and buffers are overwritten by every task.
        data: this site's cases.
        training: local optimisation.
        config: the method's own parameters.
        seed: run seed; batches of round r come from (seed, site, r) alone.
        should_stop: polled between batches.
    """

    def __init__(
        self,
        model: nn.Module,
        data: SiteData,
        training: TrainingConfig,
        config: C,
        *,
        seed: int,
        should_stop: Callable[[], bool] = never,
    ) -> None:
        self.device = choose_device(training.device)
        self.model = model.to(self.device)
        self.data, self.training, self.config = data, training, config
        self.seed, self.should_stop = seed, should_stop

    # What a method may override ---------------------------------------------------------------------------------

    def begin(self) -> None:
        """Called once the model holds the global state, before the first step (to keep a teacher, an anchor, ...)."""

    def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """The loss of one batch: scalar, to be minimised."""
        return nn.functional.cross_entropy(self.model(inputs), labels)

    def score(self) -> tuple[float | None, dict[str, float]]:
        """After training: the method's aggregation score (None = weigh by samples) and metrics to report with it."""
        return None, {}

    # What every method shares -----------------------------------------------------------------------------------

    def train(self, state: Mapping[str, Tensor], round_number: int, *, epochs: int | None = None) -> Update:
        """Train on the site's train split from the given global state.

        Args:
            state: the global model's tensors.
            round_number: 1-based; decides batches and learning rate (decayed once per finished round).
            epochs: passes over the train split; the configured local_epochs by default.

        Returns:
            The update: all of the model's state, n_k, the method's score, ``train_loss`` (mean over the last epoch).
        """
        self.load(state)
        self.begin()
        settings = self.training
        optimiser = torch.optim.SGD(
            self.model.parameters(),
            lr=settings.learning_rate * settings.learning_rate_decay ** (round_number - 1),
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
        order = generator(self.seed, "batches", self.data.site, round_number)
        mean_loss = 0.0
        # Dropout and stochastic depth draw from torch's global generator.
        with seeded(self.seed, "noise", self.data.site, round_number):
            for _ in range(settings.local_epochs if epochs is None else epochs):
                mean_loss = self._epoch(optimiser, order)
        score, metrics = self.score()
        return Update(self.state(), len(self.data.train), score, {"train_loss": mean_loss, **metrics})

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Overwrite the model with the given state."""
        self.model.load_state_dict(dict(state))

    def state(self) -> dict[str, Tensor]:
        """A copy of the model's state on the CPU: plain, detached, contiguous."""
        return {name: value.detach().to("cpu", copy=True) for name, value in self.model.state_dict().items()}

    @torch.no_grad()
    def logits(self, split: Split) -> Tensor:
        """Logits (N, C) of the current model over a split, in evaluation mode, on the CPU."""
        self.model.eval()
        pieces = [
            self.model(split.inputs[start : start + EVALUATION_BATCH].to(self.device)).float().cpu()
            for start in range(0, len(split), EVALUATION_BATCH)
        ]
        return torch.cat(pieces) if pieces else torch.zeros(0, self.data.num_classes)

    def _epoch(self, optimiser: torch.optim.Optimizer, order: torch.Generator) -> float:
        self.model.train()
        total = torch.zeros((), device=self.device)
        for indices in batches(len(self.data.train), self.training.batch_size, order):
            if self.should_stop():
                raise TrainingStopped(f"training at site {self.data.site!r} was told to stop")
            inputs, labels = self.data.train.batch(indices)
            loss = self.loss(inputs.to(self.device), labels.to(self.device))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            if self.training.gradient_clip is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.training.gradient_clip)
            optimiser.step()
            total += loss.detach() * len(indices)
        return float(total) / len(self.data.train)


def batches(cases: int, size: int, order: torch.Generator) -> Iterator[Tensor]:
    """Shuffled case indices in batches; a last batch of one joins its neighbour, since BatchNorm cannot train on it."""
    pieces = list(torch.split(torch.randperm(cases, generator=order), size))
    if len(pieces) > 1 and len(pieces[-1]) == 1:
        pieces[-2:] = [torch.cat(pieces[-2:])]
    yield from pieces


def choose_device(wanted: str) -> torch.device:
    """``auto`` takes the GPU where there is one."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)
