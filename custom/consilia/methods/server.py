"""The half of a method that acts at the server. The defaults are FedAvg: the mean weighted by training cases."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Generic

import torch
from torch import nn

from consilia.aggregation import check_update
from consilia.core.errors import ConfigError, UpdateRejected
from consilia.core.events import Progress
from consilia.core.stop import StopSignal
from consilia.data.allowed import FoundationFolder
from consilia.methods.contract import MAX_CASES, TRAIN_LOSS, C, Method, ReplyField, State, TensorSpec

MODEL_CARD = "card.json"
"""Beside a model that a server half has saved: the configuration of the run that made it."""


@dataclass(frozen=True)
class UpdateMetadata:
    """What a site says of its update.

    Attributes:
        cases: training cases n_k.
        weight: where the method declares one.
        fields: reported numbers by name.
        datasets: training cases by dataset, where the run has several; as the site declared them when it began.
    """

    cases: int
    weight: float | None = None
    fields: Mapping[str, float | None] = field(default_factory=dict)
    datasets: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Mean:
    """The aggregate of a round.

    Attributes:
        state: the weighted mean of the exchanged tensors.
        extras: the mean of each tensor beside them, by :meth:`Server.extras_weights`.
        sites: number of sites whose updates it is of.
        trainers: number of training sites in the run.
    """

    state: State
    extras: State
    sites: int
    trainers: int


@dataclass(frozen=True)
class ServerContext:
    """What the server half may use.

    Attributes:
        run: the run's configuration as a job carries it; goes into the card of what is saved.
        model: builds the network that is exchanged, with its initial weights.
        foundation_models: the server's own copies of large pre-trained models.
        data: the server's own public data, a file of site.yaml's form; None where it has none.
        folder: for checkpoints within long work.
        seed: of the run.
        progress: told what long work is doing.
        should_stop: whether the run was aborted.
    """

    run: Mapping[str, Any]
    model: Callable[[], nn.Module]
    foundation_models: Mapping[str, FoundationFolder]
    data: Path | None
    folder: Path
    seed: int
    progress: Progress
    should_stop: StopSignal


Weights = Mapping[str, float | Mapping[str, float]]
"""Raw aggregation weights by site; or for a site by tensor."""


class Server(Generic[C]):
    """Federated averaging: theta = sum_k (n_k / sum n) theta_k (McMahan et al. 2017). Methods override what differs."""

    def __init__(self, method: Method[C], context: ServerContext) -> None:
        self.method, self.config, self.context = method, method.config, context

    # What a method may override ---------------------------------------------------------------------------------

    def payload(self, round_number: int) -> State:
        """Tensors that travel to the sites beside the global state, as :meth:`Method.payload` declares them."""
        return {}

    def expected(self, names: Collection[str], datasets: Mapping[str, int]) -> Collection[str]:
        """Which of the exchanged tensors a site must send that has training cases of these datasets."""
        return names

    def weights(self, updates: Mapping[str, UpdateMetadata]) -> Weights:
        """Raw aggregation weights by site, or for each site by tensor; they need not sum to one."""
        return {
            site: float(update.cases) if update.weight is None else update.weight for site, update in updates.items()
        }

    def extras_weights(self, updates: Mapping[str, UpdateMetadata]) -> Mapping[str, float]:
        """Raw weights by site of the tensors that are sent beside the model; by default equal ones."""
        return dict.fromkeys(updates, 1.0)

    def step(self, previous: State, mean: Mean, round_number: int) -> State:
        """The next global state from the previous one and the round's mean."""
        return mean.state

    def after_round(self, state: State, round_number: int) -> State:
        """Long work at the server on a round's state. A checkpoint is made before and after; it may be repeated."""
        return state

    def finish(self) -> None:
        """When the rounds are over: the final evaluation of what the server itself has made."""

    def save(self, folder: Path) -> None:
        """Leave what the server itself has made, ready for use, in a folder."""

    def section(self) -> dict[str, Any] | None:
        """The method's own part of the record, as JSON; None: it has none."""
        return None

    def fingerprint(self) -> str | None:
        """Digest of the server's own data that the method uses; None: of none."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must find: tensors and JSON values by name."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint.

        Raises:
            CheckpointError: the state is of another model or of other data.
        """

    # What every method shares -----------------------------------------------------------------------------------

    @cached_property
    def extras(self) -> dict[str, TensorSpec]:
        """What :meth:`Method.extras` declares for the run's model."""
        overridden = type(self.method).extras is not Method.extras
        return self.method.extras(self.context.model()) if overridden else {}

    @cached_property
    def _payload(self) -> dict[str, TensorSpec]:
        overridden = type(self.method).payload is not Method.payload
        return self.method.payload(self.context.model()) if overridden else {}

    def declared_payload(self, round_number: int) -> State:
        """:meth:`payload`; raises :class:`ConfigError` where it is not as :meth:`Method.payload` declares it."""
        payload = self.payload(round_number)
        with self._own_mistake("payload", payload):
            check_tensors(payload, self._payload)
        return payload

    def next_state(self, previous: State, mean: Mean, round_number: int) -> State:
        """:meth:`step`; raises :class:`ConfigError` where its names, shapes or types are not those of the state."""
        return self._fitting("step", self.step(previous, mean, round_number), previous)

    def worked_on(self, state: State, round_number: int) -> State:
        """:meth:`after_round`; raises :class:`ConfigError` as :meth:`next_state` does."""
        return self._fitting("after_round", self.after_round(state, round_number), state)

    def _fitting(self, what: str, state: State, reference: State) -> State:
        if getattr(type(self), what) is not getattr(Server, what):
            with self._own_mistake(what, state):
                check_update(state, 0, reference=reference, max_norm=None, max_weight=0)
        return state

    @contextmanager
    def _own_mistake(self, what: str, state: object) -> Iterator[None]:
        where = f"method {self.config.method}: {what}() of the server"
        if not isinstance(state, Mapping):
            raise ConfigError(f"{where} gives {type(state).__name__}, expected tensors by name")
        try:
            yield
        except UpdateRejected as error:
            raise ConfigError(f"{where} gives what is not expected: {error}") from error

    def works_after_rounds(self) -> bool:
        """Whether the method has work of its own between two rounds."""
        return type(self).after_round is not Server.after_round

    def check(
        self, state: State, extras: State, update: UpdateMetadata, *, reference: State, max_norm: float | None
    ) -> None:
        """Refuse an update that does not fit the global state or the method's declarations.

        Raises:
            UpdateRejected: names the tensor or the number, what was expected and what came.
        """
        for declared, value in self._numbers(update):
            check_number(declared, value)
        names = self.expected(reference.keys(), update.datasets)
        wanted = {name: tensor for name, tensor in reference.items() if name in names}
        check_update(state, update.cases, reference=wanted, max_norm=max_norm, max_weight=MAX_CASES)
        check_tensors(extras, self.extras)

    def _numbers(self, update: UpdateMetadata) -> list[tuple[ReplyField, float | None]]:
        declared = {field.name: field for field in (TRAIN_LOSS, *self.method.fields())}
        if unknown := sorted(set(update.fields) - set(declared)):
            raise UpdateRejected(f"field {unknown[0][:60]!r} is not declared by method {self.method.name}")
        weight = self.method.weight()
        if weight is None and update.weight is not None:
            raise UpdateRejected(f"a weight of {update.weight}, but method {self.method.name} weighs by training cases")
        numbers: list[tuple[ReplyField, float | None]] = [
            (declared[name], value) for name, value in update.fields.items() if value is not None
        ]
        return numbers if weight is None else [*numbers, (weight, update.weight)]


def check_number(declared: ReplyField, value: float | None) -> None:
    """Raise :class:`UpdateRejected` unless a reported number is within its bounds."""
    if value is None or not math.isfinite(value) or not declared.low <= value <= declared.high:
        raise UpdateRejected(
            f"{declared.name} is {value}, expected a finite number in [{declared.low:g}, {declared.high:.7g}]"
        )


def check_tensors(tensors: State, specs: Mapping[str, TensorSpec]) -> None:
    """Refuse tensors beside the model's own that are not as declared.

    Raises:
        UpdateRejected: names the tensor, what was declared and what came.
    """
    layout = {name: torch.empty(spec.shape, dtype=spec.dtype, device="meta") for name, spec in specs.items()}
    check_update(tensors, 0, reference=layout, max_norm=None, max_weight=0)
    for name, spec in specs.items():
        norm = float(torch.linalg.vector_norm(tensors[name], dtype=torch.float64))
        if not norm <= spec.max_norm:
            raise UpdateRejected(f"norm of tensor {name!r} is {norm:.6g}, allowed is at most {spec.max_norm:.6g}")
