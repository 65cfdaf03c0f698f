"""Local optimisation: batches in a seeded order, and the loop over them that every method shares."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from inspect import unwrap
from typing import Literal

import torch
from torch import Tensor, nn

from consilia.core.errors import TrainingStopped
from consilia.core.stop import StopSignal, never
from consilia.methods.config import TrainingConfig


@dataclass(frozen=True)
class Batch:
    """Cases of one step, on the device: inputs (B, ...), labels as the task has them, and their dataset's name."""

    inputs: Tensor
    labels: Tensor
    dataset: str

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class FitResult:
    """What a fit came to: mean loss of the last epoch, steps of the optimiser, and its learning rate."""

    loss: float
    steps: int
    rate: float


def always(labels: Tensor) -> bool:
    """Every batch teaches."""
    return True


def fit(
    model: nn.Module,
    parameters: Sequence[nn.Parameter],
    epochs: Iterable[Iterable[Batch]],
    loss: Callable[[Batch], Tensor],
    *,
    training: TrainingConfig,
    rate: float,
    penalty: Callable[[], Tensor] | None = None,
    after_backward: Callable[[], None] | None = None,
    training_mode: Callable[[], object] | None = None,
    teaches: Callable[[Tensor], bool] = always,
    should_stop: StopSignal = never,
    where: str = "",
) -> FitResult:
    """Minimise a loss over batches with a fresh optimiser.

    Args:
        model: put into training mode for every epoch.
        parameters: what the optimiser changes; the rest is out of reach of its weight decay and momentum, too.
        epochs: the batches of each pass.
        loss: scalar of a batch, the mean over its cases; of a survival their partial likelihood, see
            :attr:`~consilia.methods.tasks.Task.couples_cases`.
        training: kind and settings of the optimiser, gradient clipping.
        rate: learning rate.
        penalty: a scalar that is added to the loss of every batch.
        after_backward: called when the gradients are there, before they are clipped and used.
        training_mode: called before every epoch in place of ``model.train()``, where a part of the model is frozen.
        teaches: of the labels of a batch, whether it is used. One that is not makes no step, but is one of the batches
            that the pass has, and its cases count in the mean loss with a loss of 0.
        should_stop: polled before every step.
        where: for the message of :class:`TrainingStopped`.

    Raises:
        TrainingStopped: ``should_stop`` said so.
    """
    optimiser = make_optimiser(parameters, training, rate)
    mean, steps = 0.0, 0
    for batches in epochs:
        (training_mode or model.train)()
        total, cases = torch.zeros((), device=parameters[0].device), 0
        for batch in batches:
            if should_stop():
                raise TrainingStopped(f"training at {where} was told to stop")
            cases += len(batch)
            if not teaches(batch.labels):
                continue
            value = loss(batch) if penalty is None else loss(batch) + penalty()
            optimiser.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
            if after_backward is not None:
                after_backward()
            if training.gradient_clip is not None:
                nn.utils.clip_grad_norm_(parameters, training.gradient_clip)
            optimiser.step()
            total += value.detach() * len(batch)
            steps += 1
        mean = float(total) / cases
    return FitResult(mean, steps, rate)


def _without_compiler(kind: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """One of torch's optimisers that does not load torch's compiler: a second and 70 MB in every process that trains.

    torch wraps the methods of an optimiser to keep them out of what it compiles, and the wrappers load the compiler.
    """
    plain = {name: unwrap(getattr(kind, name)) for name in ("add_param_group", "zero_grad")}
    return type(kind.__name__, (kind,), {**plain, "step": torch.no_grad()(unwrap(kind.step))})


_SGD = _without_compiler(torch.optim.SGD)
_ADAPTIVE = {"adam": _without_compiler(torch.optim.Adam), "adamw": _without_compiler(torch.optim.AdamW)}


def make_optimiser(parameters: Sequence[nn.Parameter], training: TrainingConfig, rate: float) -> torch.optim.Optimizer:
    """The configured optimiser; its state begins anew with every fit."""
    if training.optimiser in _ADAPTIVE:
        return _ADAPTIVE[training.optimiser](parameters, lr=rate, weight_decay=training.weight_decay)
    return _SGD(parameters, lr=rate, momentum=training.momentum, weight_decay=training.weight_decay)


def shuffled(cases: int, size: int, order: torch.Generator, last: Literal["join", "keep"] = "join") -> Iterator[Tensor]:
    """Shuffled case indices in batches; the last one may be smaller.

    One of a single case joins its neighbour, since BatchNorm cannot train on it, unless ``last`` is ``keep``.
    """
    pieces = list(torch.split(torch.randperm(cases, generator=order), size))
    if last == "join" and len(pieces) > 1 and len(pieces[-1]) == 1:
        pieces[-2:] = [torch.cat(pieces[-2:])]
    yield from pieces


def choose_device(wanted: str) -> torch.device:
    """``auto`` takes the GPU where there is one."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)
