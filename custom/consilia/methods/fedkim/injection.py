"""Knowledge injection: training the injected model on the server's public data, resumable at any step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from consilia.core.checkpoint import CheckpointEntry, CheckpointStore
from consilia.core.determinism import generator, seeded
from consilia.core.errors import RunFailed, TrainingStopped
from consilia.methods.fedkim.cases import Cases
from consilia.methods.fedkim.config import InjectionConfig
from consilia.methods.fedkim.injected import PRECISION, InjectedModel
from consilia.methods.fit import shuffled

Batch = tuple[str, Tensor]
"""A task, and which of its cases."""

STEPS_BETWEEN_REPORTS = 25


def plan(public: Mapping[str, Cases], config: InjectionConfig, seed: int, *purpose: str | int) -> list[Batch]:
    """The batches of one injection: of one task each, those of all tasks shuffled anew in every epoch.

    The published code goes through the tasks one after the other, so that the last one is learnt best.
    """
    order = generator(seed, *purpose)
    planned: list[Batch] = []
    for _ in range(config.epochs):
        epoch = [
            (task, indices) for task, cases in sorted(public.items()) for indices in _drawn(len(cases), config, order)
        ]
        planned += [epoch[place] for place in torch.randperm(len(epoch), generator=order).tolist()]
    return planned


def _drawn(cases: int, config: InjectionConfig, order: torch.Generator) -> Sequence[Tensor]:
    if cases == 0:
        return []
    if config.cases is None or cases <= config.cases:
        return list(shuffled(cases, config.batch_size, order))
    chosen = torch.randperm(cases, generator=order)[: config.cases]
    return list(torch.split(chosen, config.batch_size))


class Injection:
    """One injection: planned batches, an optimiser that starts anew, and where it has got to.

    Args:
        model: what learns.
        public: cases to learn from, by task.
        config: how.
        planned: the batches, in order.
        should_stop: polled between steps.
    """

    def __init__(
        self,
        model: InjectedModel,
        public: Mapping[str, Cases],
        config: InjectionConfig,
        planned: Sequence[Batch],
        should_stop: Callable[[], bool],
    ) -> None:
        self.model, self.public, self.config, self.planned = model, public, config, planned
        self.should_stop = should_stop
        self.step = 0
        self.losses: dict[str, list[float]] = {}
        trained = model.trained()
        rate = config.learning_rate
        encoders = rate if config.encoder_learning_rate is None else config.encoder_learning_rate
        groups = [
            {"params": [p for n, p in trained.items() if n.startswith("extractor.")], "peak": encoders},
            {"params": [p for n, p in trained.items() if not n.startswith("extractor.")], "peak": rate},
        ]
        self._optimiser = torch.optim.AdamW(groups, weight_decay=config.weight_decay)
        half = config.precision == "float16"
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=half)  # type: ignore[attr-defined]

    @property
    def _device(self) -> torch.device:
        return next(self.model.aligner.parameters()).device

    def _factor(self, step: int) -> float:
        """Linear warm-up, then linear decay to zero."""
        steps, warm = len(self.planned), math.ceil(self.config.warmup * len(self.planned))
        return (step + 1) / (warm + 1) if step < warm else (steps - step) / max(steps - warm, 1)

    def run(self, store: CheckpointStore | None, key: str, seed: int, progress: Callable[[int, int], None]) -> None:
        """Train to the end of the plan, from ``store``'s checkpoint where that is of the same ``key``.

        Raises:
            TrainingStopped: the run was aborted; the last checkpoint stays.
            RunFailed: the loss or its gradient is no finite number.
        """
        if store is not None and store.exists():
            self._restore(store, key)
        while self.step < len(self.planned):
            if self.should_stop():
                raise TrainingStopped("the injection was told to stop")
            # The noise of dropout comes from the step alone, so that a resumed injection draws the same.
            with seeded(seed, "injection noise", key, self.step):
                self._one_step(*self.planned[self.step])
            self.step += 1
            if store is not None and self.step % self.config.checkpoint_steps == 0 and self.step < len(self.planned):
                self._save(store, key)
            if self.step % STEPS_BETWEEN_REPORTS == 0:
                progress(self.step, len(self.planned))
        self.model.eval()

    def mean_losses(self) -> dict[str, float]:
        """Mean loss per answer token of each task's batches."""
        return {task: math.fsum(values) / len(values) for task, values in sorted(self.losses.items())}

    def _one_step(self, task: str, indices: Tensor) -> None:
        self.model.train()
        cases = self.public[task]
        parts = [part for part in torch.chunk(indices, self.config.accumulate) if len(part)]
        tokens, total = 0, 0.0
        for part in parts:
            with autocast(self.config, self._device):
                loss, count = self.model.loss(cases.take(part))
            self._scaler.scale(loss).backward()
            tokens, total = tokens + count, total + float(loss.detach())
        for group in self._optimiser.param_groups:
            group["lr"] = group["peak"] * self._factor(self.step)
        self._scaler.unscale_(self._optimiser)
        for parameter in self.model.trained().values():
            # The loss is the mean over the answers' tokens, whose number is known only now.
            if parameter.grad is not None:
                parameter.grad.div_(max(tokens, 1))
        norm = float(nn.utils.clip_grad_norm_(self.model.trained().values(), self.config.gradient_clip))
        self._require_finite(task, total, norm)
        self._scaler.step(self._optimiser)
        self._scaler.update()
        self._optimiser.zero_grad(set_to_none=True)
        self.losses.setdefault(task, []).append(total / max(tokens, 1))

    def _require_finite(self, task: str, loss: float, norm: float) -> None:
        # In float16 an infinite gradient is the scaler's business: it leaves the step out and scales less.
        if not math.isfinite(loss) or not (math.isfinite(norm) or self._scaler.is_enabled()):
            raise RunFailed(
                f"injection, step {self.step + 1}, task {task}: the loss is {loss:g}, its gradient's norm {norm:g}; "
                "lower injection.learning_rate, or set injection.precision: float32"
            )

    # ---- checkpoints -------------------------------------------------------------------------------------------

    def _save(self, store: CheckpointStore, key: str) -> None:
        moments = {}
        for index, state in self._optimiser.state_dict()["state"].items():
            for name, value in state.items():
                moments[f"{index}.{name}"] = value.cpu()
        state = {
            "key": key,
            "step": self.step,
            "losses": self.losses,
            "scaler": self._scaler.state_dict(),
        }
        models = {"trained": self.model.tensors(), "moments": moments}
        store.save({name: CheckpointEntry(name, self.step, tensors) for name, tensors in models.items()}, state)

    def _restore(self, store: CheckpointStore, key: str) -> None:
        checkpoint = store.load()
        if checkpoint.state["key"] != key:
            # The store writes no file anew that its index names: step 200 of this injection would keep the other's.
            store.clear()
            return
        self.model.load(checkpoint.models["trained"])
        saved = self._optimiser.state_dict()
        for name, value in checkpoint.models["moments"].items():
            index, _, moment = name.partition(".")
            saved["state"].setdefault(int(index), {})[moment] = value
        self._optimiser.load_state_dict(saved)
        self.step, self.losses = checkpoint.state["step"], checkpoint.state["losses"]
        if checkpoint.state["scaler"]:
            self._scaler.load_state_dict(checkpoint.state["scaler"])


def autocast(config: InjectionConfig, device: torch.device) -> AbstractContextManager[Any]:
    """In which precision the forward pass of an injection runs."""
    if config.precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=PRECISION[config.precision])


def injection_store(folder: Path) -> CheckpointStore:
    """Where an injection keeps its own checkpoints."""
    return CheckpointStore(folder / "injection")
