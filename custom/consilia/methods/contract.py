"""The method contract: what a federated method declares, and the two halves that it brings along.

A method is one class with a name and a configuration. It says which tensors of the model are exchanged, what else
travels beside them in either direction, and which numbers a site reports. :class:`~consilia.methods.client.Client`
trains at a site, :class:`~consilia.methods.server.Server` acts at the server; the defaults of both are FedAvg, so that
a method overrides only what differs. docs/methods.md walks through an example.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from consilia.core.errors import ConfigError
from consilia.methods.config import MethodConfig, TrainingConfig
from consilia.models.config import FoundationConfig
from consilia.models.exchange import exchanged_names

if TYPE_CHECKING:
    from consilia.methods.client import Client, ClientContext
    from consilia.methods.server import Server, ServerContext
    from consilia.record.schema import Record
    from consilia.report.panel import Panel, TextTable

State = Mapping[str, Tensor]
"""Tensors by name."""

TENSOR_NAME = re.compile(r"[\w .-]{1,200}")
"""A name that a manifest shows to who approves it: no control character may hide one."""

MAX_CASES = 10_000_000
"""More training cases than this at one site is a mistake or a lie."""

C = TypeVar("C", bound=MethodConfig)


@dataclass(frozen=True)
class TensorSpec:
    """A tensor that travels beside the model's own: its layout, and the largest L2 norm that is accepted."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    max_norm: float = 1000.0

    @classmethod
    def like(cls, tensor: Tensor, max_norm: float = 1000.0) -> TensorSpec:
        """The layout of a tensor."""
        return cls(tuple(tensor.shape), tensor.dtype, max_norm)


@dataclass(frozen=True)
class ReplyField:
    """A number that a site reports with its update. Everything else that shows it follows from this declaration.

    Attributes:
        name: its key in the reply, in the record and in TensorBoard.
        meaning: one line, for the person who approves what a site sends.
        low: smallest value that the server accepts.
        high: largest value that the server accepts.
        heading: of a column in a report.
    """

    name: str
    meaning: str
    low: float = 0.0
    high: float = 1.0
    heading: str = ""

    def __post_init__(self) -> None:
        # The name is a part of paths in a manifest, a key in JSON and a part of a tag.
        if not (isinstance(self.name, str) and self.name.isascii() and self.name.isidentifier()):
            raise ConfigError(f"a reply field has the name {self.name!r}, expected letters, digits and underscores")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise ConfigError(f"reply field {self.name} has the bounds [{self.low}, {self.high}], expected finite ones")


TRAIN_LOSS = ReplyField("train_loss", "mean loss over the last epoch", -1e9, 1e9, "Train loss")
"""Every method reports it."""


@dataclass(frozen=True)
class Update:
    """One site's contribution to a round. Everything in here is transmitted, and nothing else is.

    Attributes:
        state: the exchanged tensors by name; a site may lack some only if the method says so.
        cases: number of training cases n_k.
        weight: the aggregation weight, where the method declares one; None: ``cases``.
        extras: tensors beside the model's own, as :meth:`Method.extras` declares them.
        fields: numbers by name, as :meth:`Method.fields` declares them.
    """

    state: State
    cases: int
    weight: float | None = None
    extras: State = field(default_factory=dict)
    fields: Mapping[str, float] = field(default_factory=dict)


class Method(Generic[C]):
    """A federated method. Register a subclass under the entry point group ``consilia.methods``.

    Args:
        config: the method's own parameters.

    Attributes:
        name: by which configurations and commands choose it.
        Config: the class of its parameters.
        tasks: the learning tasks that it can train.
        any_model: whether it trains any network; False where it needs a model of its own.
        personal: whether every site makes a personal model when the rounds are over.
        several_datasets: whether sites train several datasets together, each with a head of its own.
        global_model: whether what is exchanged is a whole model, with what every site has from the start. False where
            each site has a trained part of its own, as FedPer's head: the best round is then chosen by the models that
            the sites make of what is exchanged, and records and reports have no metrics of a global model.
        robust: whether a robust rule may stand in place of the mean over the sites. False where what a site sends
            beside its model must add up over the sites, as the changes of SCAFFOLD's control variates do.
        private_files: names of files that the half at the server saves and that no administrator can download, since
            they show cases of the server's own data.
        grid: the one parameter of its own that a study tunes beside the learning rate, with its values (a key of
            :attr:`Config`); empty where there is none.
    """

    name: ClassVar[str]
    Config: ClassVar[type[MethodConfig]] = MethodConfig
    tasks: ClassVar[tuple[str, ...]] = ("classification",)
    any_model: ClassVar[bool] = True
    personal: ClassVar[bool] = True
    several_datasets: ClassVar[bool] = False
    global_model: ClassVar[bool] = True
    robust: ClassVar[bool] = True
    private_files: ClassVar[tuple[str, ...]] = ()
    grid: ClassVar[Mapping[str, tuple[float, ...]]] = {}

    def __init__(self, config: C) -> None:
        self.config = config

    # What travels -----------------------------------------------------------------------------------------------

    def exchanged(self, model: nn.Module) -> list[str]:
        """Names of the model's tensors that travel both ways; by default what is trained, with its buffers."""
        return exchanged_names(model)

    def extras(self, model: nn.Module) -> dict[str, TensorSpec]:
        """Tensors that a site sends beside the model's own, by name. They are averaged with equal weights."""
        return {}

    def payload(self, model: nn.Module) -> dict[str, TensorSpec]:
        """Tensors that the server sends beside the model's own, by name; checked and bounded at the site."""
        return {}

    def fields(self) -> tuple[ReplyField, ...]:
        """Numbers that a site reports with its update, beside the mean training loss."""
        return ()

    def weight(self) -> ReplyField | None:
        """The aggregation weight that a site claims, with its bounds; None: its number of training cases."""
        return None

    # How it is run ----------------------------------------------------------------------------------------------

    def variants(self) -> tuple[str, ...]:
        """More evaluations of the final global model, see :meth:`~consilia.methods.client.Client.variant`."""
        return ()

    def datasets(self) -> dict[str, int]:
        """With :attr:`several_datasets`: the datasets that sites train together, and the classes of each."""
        return {}

    def model_arguments(self) -> dict[str, Any]:
        """Arguments of the model that follow from the method's own."""
        return {}

    def server_fingerprint(self, data: Path | None) -> str | None:
        """Digest of the server's own data that the method uses, as a finished run's record holds it; None: of none."""
        return None

    def server_foundations(self) -> tuple[FoundationConfig, ...]:
        """Pre-trained models that the half at the server needs."""
        return ()

    def check_training(self, training: TrainingConfig) -> None:
        """Raise :class:`ConfigError` for local optimisation that the method's mathematics rule out."""

    def same_as(self, num_classes: int) -> tuple[str, str] | None:
        """Another method that this one equals to the byte with so many classes, and why; None: it is its own.

        A study shows such a method as what it is, and does not run it: FedNTD with two classes is FedAvg.
        """
        return None

    # What is shown of it ----------------------------------------------------------------------------------------

    @classmethod
    def panels(cls, records: Sequence[Record]) -> list[Panel]:
        """The method's parts of the report of one run, or of the comparison of several, others' among them."""
        return []

    @classmethod
    def tables(cls, records: Sequence[Record]) -> list[TextTable]:
        """Tables for the terminal, which then take the place of the table of metrics."""
        return []

    @classmethod
    def scalars(cls, record: Record) -> Iterable[tuple[str, int, float]]:
        """(tag, round, value) of what the method's section of the record has per round, for TensorBoard."""
        return ()

    # Its two halves ---------------------------------------------------------------------------------------------

    def client(self, context: ClientContext) -> Client[Any]:
        """The half that runs at a site."""
        from consilia.methods.client import Client

        return Client(self, context)

    def server(self, context: ServerContext) -> Server[Any]:
        """The half that runs at the server."""
        from consilia.methods.server import Server

        return Server(self, context)


def declared_fields(method: Method[Any]) -> dict[str, ReplyField]:
    """Every number that a site may report, by name: training loss, the method's own fields, a claimed weight.

    Raises:
        ConfigError: what is declared is no field, or a name is declared twice.
    """
    found: dict[str, ReplyField] = {}
    for item in (TRAIN_LOSS, *method.fields(), *filter(None, [method.weight()])):
        if not isinstance(item, ReplyField):
            raise ConfigError(
                f"method {method.name} declares the field {item!r}, expected a consilia.methods.ReplyField"
            )
        if item.name in found:
            raise ConfigError(f"method {method.name} declares the field {item.name} twice, or as every method does")
        found[item.name] = item
    return found


def transmitted(method: Method[Any], model: nn.Module) -> dict[str, TensorSpec]:
    """Every tensor that a site may send, by name: what is exchanged of the model, and the extras.

    Raises:
        ConfigError: the method exchanges nothing, or a tensor that the model lacks; what it declares beside the model
            is no TensorSpec, or has a name that a manifest does not take or the model has.
    """
    state, names, network = model.state_dict(), method.exchanged(model), type(model).__name__
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise ConfigError(f"method {method.name}: exchanged(model) gives {names!r}, expected a list of names")
    names = list(names)
    if unknown := sorted(set(map(str, names)) - set(state)):
        raise ConfigError(f"method {method.name} exchanges {unknown[0]!r}, which {network} does not have")
    if not names:
        raise ConfigError(f"method {method.name} exchanges nothing of {network}: expected one of its tensors at least")
    found = {name: TensorSpec.like(state[name]) for name in names}
    for kind, specs in (("extras", method.extras(model)), ("payload", method.payload(model))):
        _check_specs(f"method {method.name}: {kind}(model)", specs, state)
    return {**found, **method.extras(model)}


def _check_specs(where: str, specs: Any, state: State) -> None:
    if not isinstance(specs, Mapping):
        raise ConfigError(f"{where} gives {type(specs).__name__}, expected a dict of TensorSpec by name")
    for name, spec in specs.items():
        if not isinstance(spec, TensorSpec):
            raise ConfigError(f"{where} gives a {type(spec).__name__} for {name!r}, expected a TensorSpec")
        if not TENSOR_NAME.fullmatch(str(name)):
            raise ConfigError(f"{where} has the name {name!r}, expected letters, digits, spaces, dots and dashes")
        if name in state:
            raise ConfigError(f"{where} has the name {name!r}, which a tensor of the model has")
