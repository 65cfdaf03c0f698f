"""The half of a method that runs at a site. The defaults are FedAvg's local training."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from consilia.core.determinism import generator, seeded
from consilia.core.errors import ConfigError, TrainingStopped
from consilia.core.stop import StopSignal, never
from consilia.data.augmentation import Augmentation, Transform
from consilia.data.dataset import SiteData, Split
from consilia.methods.config import TrainingConfig
from consilia.methods.contract import C, Method, State, Update
from consilia.methods.fit import Batch, FitResult, always, choose_device, fit, shuffled
from consilia.methods.local_report import write_local_report
from consilia.methods.passes import EVERYTHING, passes_of
from consilia.methods.tasks import TASKS, Network, Predictions, network_of
from consilia.methods.tasks.classification import balanced_weights
from consilia.models.exchange import copy_into, exchanged_names, exchanged_state

T = TypeVar("T")

log = logging.getLogger(__name__)


class CannotEvaluate(Exception):
    """A model cannot be judged at this site; the message says why."""


@dataclass(frozen=True)
class ClientContext:
    """What a client works with.

    Attributes:
        model: the network, with its initial weights.
        data: this site's cases.
        training: local optimisation.
        seed: of the run; batches of round r come from (seed, site, r) alone.
        should_stop: polled between batches, of training and of evaluation.
        pages: whether the site's own report is a page, or its table of cases alone.
    """

    model: nn.Module
    data: SiteData
    training: TrainingConfig
    seed: int
    should_stop: StopSignal = never
    pages: bool = True


@dataclass(frozen=True)
class Round:
    """One request to train.

    Attributes:
        number: 1-based; decides batches and learning rate.
        state: the global model's exchanged tensors.
        payload: what the method's server sends beside them.
        epochs: passes over the training cases; None: ``training.local_steps`` or ``local_epochs``.
        steps: optimiser steps instead, as ``training.local_steps``; None: as ``epochs`` says.
    """

    number: int
    state: State
    payload: State = field(default_factory=dict)
    epochs: int | None = None
    steps: int | None = None


class Client(Generic[C]):
    """Trains and evaluates one site's model. A method overrides :meth:`loss` or :meth:`train`, and what it needs.

    A model whose image encoder is frozen and reads nothing that is trained says so by ``encoder_is_frozen``; what its
    ``encode`` gives is then computed once per case and kept, and training runs its ``decode`` alone.
    """

    attention_meaning: ClassVar[str] = ""
    """What the map of :meth:`attention` shows, in a sentence for the site's own report."""

    def __init__(self, method: Method[C], context: ClientContext) -> None:
        method.check_training(context.training)
        self.method, self.config = method, method.config
        self.data, self.training = context.data, context.training
        self.seed, self.should_stop = context.seed, context.should_stop
        self.pages = context.pages
        self.device = choose_device(self.training.device)
        # Its forward, encode and decode are its own: torch types none of them.
        self.model: Any = context.model.to(self.device)
        self.task = TASKS[self.data.task]
        self.shared = method.exchanged(self.model)
        self.private = [name for name in exchanged_names(self.model) if name not in set(self.shared)]
        self.parameters = {
            name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad
        }
        self.samples = torch.Generator()
        """For what the task samples in its loss; seeded by every fit."""
        self.class_weights = self._balanced() if self.training.class_weights == "balanced" else {}
        """By name of the dataset, (C,) on the device; none where all cases weigh alike."""
        augmentation = self.training.augmentation
        self.augmentation = None if augmentation is None else Augmentation(augmentation, self.seed, self.data.site)
        if augmentation is not None and self.encoder_is_frozen:
            log.info(
                "site %s: training.augmentation changes the images in every epoch: the frozen encoder's output on "
                "training batches is not kept but computed in every step",
                self.data.site,
            )
        self._encoded: dict[int, tuple[Split, Tensor]] = {}

    # What a method may override ---------------------------------------------------------------------------------

    def train(self, round_: Round) -> Update:
        """Train on the site's training cases from the given global state."""
        self.load(round_.state)
        return self.update(self.fit(round_))

    def loss(self, batch: Batch) -> Tensor:
        """The loss of one batch: scalar, to be minimised.

        The mean over its cases; with ``training.class_weights`` their weighted mean.
        """
        weights = self.class_weights.get(batch.dataset)
        return self.task.loss(self.network_for(batch.dataset), batch.inputs, batch.labels, self.samples, weights)

    def personalize(self, round_: Round) -> State:
        """The personal model after the rounds; by default the global model is trained once more, as in a round."""
        self.train(round_)
        return self.state()

    def state_for(self, kind: str, global_state: State) -> State:
        """The tensors to load before an evaluation: of the ``global`` model, or of the site's ``personal`` one.

        Called with the client state of the request in place, ``personal`` right after :meth:`train`.

        Raises:
            CannotEvaluate: this site lacks what the model needs; the message says what.
        """
        return global_state if kind == "global" else self.state()

    def variant(self, name: str) -> AbstractContextManager[None]:
        """The model as one of :meth:`Method.variants` has it, inside the block."""
        return nullcontext()

    def state_dict(self) -> dict[str, Any]:
        """What the next request must find at this site: tensors and JSON values by name; never sent.

        By default the trained tensors that are not exchanged. Saved after every round, readable by its owner alone.
        """
        return self.state(self.private) if self.private else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved client state; what :meth:`state_dict` gave before the first round begins anew."""
        if self.private:
            self.load(state)

    def report(
        self,
        path: Path,
        predictions: Mapping[str, Mapping[str, Predictions]],
        attention: Tensor | None,
        thresholds: Mapping[str, float | None] | None = None,
    ) -> None:
        """Write the site's own report on its test cases, which never leaves it.

        Args:
            path: the HTML file.
            predictions: of the ``global`` model, and of the ``personal`` one where there is one, by dataset.
            attention: of :meth:`attention` with the global model.
            thresholds: by model, see :func:`~consilia.methods.local_report.write_local_report`.
        """
        own = {model: found[self.data.name] for model, found in predictions.items()}
        write_local_report(
            path,
            self.data,
            own,
            thresholds=thresholds,
            attention=attention,
            meaning=self.attention_meaning,
            table_only=not self.pages,
        )

    def attention(self, split: Split) -> Tensor | None:
        """A map (N, h, w) per case for the site's own report, see :attr:`attention_meaning`; None: there is none."""
        return None

    def network_for(self, dataset: str) -> Network:
        """:attr:`network` on the cases of one dataset; by default the same for all."""
        return self.network

    # What every method uses -------------------------------------------------------------------------------------

    def fit(
        self,
        round_: Round,
        *,
        epochs: int | None = None,
        purpose: str = "",
        penalty: Callable[[], Tensor] | None = None,
        after_backward: Callable[[], None] | None = None,
        parameters: Mapping[str, nn.Parameter] | None = None,
        training_mode: Callable[[], object] | None = None,
    ) -> FitResult:
        """Train the model as it is on the site's training cases, with :meth:`loss`.

        Args:
            round_: decides batches and learning rate.
            epochs: passes over the training cases; None: the round's, or its steps.
            purpose: tells the random numbers of several fits of one round apart.
            penalty: added to the loss of every batch (a proximal term).
            after_backward: called between the gradient and the step (a correction of the gradient).
            parameters: what the optimiser changes; None: :attr:`parameters`.
            training_mode: see :func:`~consilia.methods.fit.fit`.
        """
        purposes = (*((purpose,) if purpose else ()), self.data.site, round_.number)
        self.samples = generator(self.seed, "draw", *purposes)
        # Dropout and stochastic depth draw from torch's global generator.
        with seeded(self.seed, "noise", *purposes):
            return fit(
                self.model,
                list((self.parameters if parameters is None else parameters).values()),
                passes_of(self, round_, epochs, (purpose,) if purpose else ()),
                self.loss,
                training=self.training,
                rate=self.training.learning_rate * self.training.learning_rate_decay ** (round_.number - 1),
                penalty=penalty,
                after_backward=after_backward,
                training_mode=training_mode,
                teaches=always if self.training.eventless_batches == "step" else self.task.teaches,
                should_stop=self.should_stop,
                where=f"site {self.data.site!r}",
            )

    def batches(
        self, order: torch.Generator, transform: Transform | None = None, part: slice = EVERYTHING
    ) -> Iterator[Batch]:
        """One pass over the training cases in a fresh order; ``transform`` changes them, ``part`` is made of it."""
        pieces = list(shuffled(len(self.data.train), self.training.batch_size, order, self.training.last_batch))
        return self.batches_of(pieces[part], transform)

    def batches_of(self, pieces: Iterable[Tensor], transform: Transform | None = None) -> Iterator[Batch]:
        """The training cases of each piece of indices; ``transform`` changes them."""
        name, split = self.data.name, self.data.train.with_transform(transform)
        # At once, not with the first batch: a frozen encoder runs in evaluation mode, which fit ends before it.
        whole = self.inputs(self.data.train) if transform is None else None

        def batch(indices: Tensor) -> Batch:
            if whole is not None:
                inputs, labels = whole[indices].to(self.device), split.labels[indices]
            else:
                inputs, labels = split.batch(indices)
                inputs = self._encode(inputs.to(self.device))
            return Batch(inputs, labels.to(self.device), name)

        return (batch(indices) for indices in pieces)

    @torch.no_grad()
    def _encode(self, inputs: Tensor) -> Tensor:
        """What :attr:`network` takes for augmented inputs: themselves, or what the frozen encoder makes of them."""
        if not self.encoder_is_frozen:
            return inputs
        mode = self.model.training
        codes: Tensor = self.model.eval().encode(inputs)
        self.model.train(mode)
        return codes

    def _balanced(self) -> dict[str, Tensor]:
        """Class weights of each dataset that the site trains on, from its own training cases; nothing is sent."""
        return {
            name: balanced_weights(dataset.train.labels, dataset.num_classes).to(self.device)
            for name, dataset in self.data.datasets.items()
            if len(dataset.train)
        }

    def update(
        self,
        result: FitResult,
        *,
        weight: float | None = None,
        extras: State | None = None,
        fields: Mapping[str, float] | None = None,
    ) -> Update:
        """The update that sends the model as it is now."""
        fields = {"train_loss": result.loss, **(fields or {})}
        return Update(self.state(self.shared), self.data.cases("train"), weight, extras or {}, fields)

    def load(self, state: State) -> None:
        """Overwrite the named tensors of the model; the others stay."""
        copy_into(self.model, state)

    def state(self, names: list[str] | None = None) -> dict[str, Tensor]:
        """Copies, on the CPU, of what is trained (with its buffers), or of the named tensors."""
        return exchanged_state(self.model, names=names)

    def copy_of_parameters(self) -> dict[str, Tensor]:
        """Detached copies of the trained parameters, on the device: an anchor, or a control variate's start."""
        return {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    @property
    def has_state(self) -> bool:
        """Whether the method keeps anything at the site from one round to the next."""
        return bool(self.private) or type(self).state_dict is not Client.state_dict

    @property
    def network(self) -> Network:
        """The model as it is called on :meth:`inputs`."""
        return network_of(self.model, encoded=self.encoder_is_frozen)

    def frozen_copy(self) -> Network:
        """A copy of the model as it is, in evaluation mode and without gradients: a teacher."""
        return network_of(copy.deepcopy(self.model).eval().requires_grad_(False), encoded=self.encoder_is_frozen)

    @torch.no_grad()
    def predict(self, split: Split, dataset: str | None = None) -> dict[str, Tensor]:
        """The model's predictions on a split, in evaluation mode, on the CPU; see :mod:`consilia.methods.tasks`.

        Args:
            split: of the dataset that is called ``dataset``.
            dataset: its name; None where the site has only one.
        """
        self.model.eval()
        network = self.network_for(self.data.name if dataset is None else dataset)
        labels, size = split.labels, self.task.at_once(split.inputs)
        pieces = [
            self.task.predict(
                network, piece, labels[start : start + size].to(self.device), split.case_ids[start : start + size]
            )
            for start, piece in self.pieces(split, self.inputs(split))
        ]
        if not pieces:
            return self.task.empty_predictions(split, self.data.dataset(dataset).num_classes)
        return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}

    def pieces(self, split: Split, inputs: Tensor | None = None) -> Iterator[tuple[int, Tensor]]:
        """As many of a split's inputs (or of what was made of them) as fit at once, on the device, from which on."""
        inputs, size = split.inputs if inputs is None else inputs, self.task.at_once(split.inputs)
        for start in range(0, len(split), size):
            if self.should_stop():
                raise TrainingStopped(f"evaluation at site {self.data.site!r} was told to stop")
            yield start, inputs[start : start + size].to(self.device)

    def check_model(self) -> None:
        """Raise :class:`ConfigError` unless the model takes this site's inputs and gives as many classes."""
        if self.augmentation is not None:
            self._check_augmentation(self.augmentation)
        for name, dataset in self.data.datasets.items():
            split = dataset.test if dataset.is_test_only else dataset.train
            probe = Split(split.inputs[:1], split.labels[:1], split.case_ids[:1])
            for prediction in try_inputs(partial(self.predict, probe, name), self.model, probe).values():
                expected = self.task.prediction_shape(probe.labels, dataset.num_classes)
                if prediction.shape != expected:
                    raise ConfigError(f"the model gives {tuple(prediction.shape)}, the data need {tuple(expected)}")

    def _check_augmentation(self, augmentation: Augmentation) -> None:
        inputs = {name: dataset.train.inputs for name, dataset in self.data.datasets.items()}
        if self.method.several_datasets:
            augmentation.check_several(inputs)
        elif not self.data.is_test_only:
            augmentation.check(inputs[self.data.name])

    @torch.no_grad()
    def inputs(self, split: Split) -> Tensor:
        """What :attr:`network` takes for a split's cases: its inputs, or what the frozen encoder made of them."""
        if not self.encoder_is_frozen:
            return split.inputs
        if id(split) not in self._encoded:
            self.model.eval()
            pieces = [self.model.encode(piece).cpu() for _, piece in self.pieces(split)]
            # The split is kept beside its codes, so that no other object can get its id.
            self._encoded[id(split)] = (split, torch.cat(pieces) if pieces else split.inputs)
        return self._encoded[id(split)][1]

    @property
    def encoder_is_frozen(self) -> bool:
        """Whether the encoder's output depends on nothing that is trained."""
        return bool(getattr(self.model, "encoder_is_frozen", False))


def proximal_term(parameters: Mapping[str, Tensor], anchors: State, mu: float) -> Tensor:
    """(mu / 2) ||theta - theta_g||^2 over the named parameters: Li et al. 2020, Eq. 2. Scalar."""
    squares = [(parameter - anchors[name]).square().sum() for name, parameter in parameters.items()]
    return 0.5 * mu * torch.stack(squares).sum()


def try_inputs(predict: Callable[[], T], model: nn.Module, probe: Split) -> T:
    """What a model predicts for a probe; raises :class:`ConfigError` if it does not take such inputs."""
    try:
        return predict()
    # Models of other libraries say what does not fit in many ways; timm asserts.
    except (RuntimeError, ValueError, AssertionError) as error:
        shape = tuple(probe.inputs.shape)
        raise ConfigError(f"model {type(model).__name__} does not take inputs of shape {shape}: {error}") from error
