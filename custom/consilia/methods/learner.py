"""The site's half of a method: local training, shared by all methods; each overrides its loss and its score."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from consilia.core.determinism import generator, seeded
from consilia.core.errors import ConfigError, ConsiliaError
from consilia.core.update import Update
from consilia.data.dataset import SiteData, Split
from consilia.methods.classification import Classification
from consilia.methods.config import MethodConfig, TrainingConfig
from consilia.methods.segmentation import Segmentation
from consilia.methods.task import Answers, Network, Task, network_of
from consilia.models.exchange import exchanged_state, load_exchanged

TASKS: dict[str, Task] = {"classification": Classification(), "segmentation": Segmentation()}

OPTIONAL = frozenset({"score", "train_accuracy", "validation_accuracy", "individuality", "mean_query"})
"""What only some methods tell the server; see :meth:`Learner.tells`."""

FLIPS = frozenset({"negative_flips", "positive_flips"})

C = TypeVar("C", bound=MethodConfig)
T = TypeVar("T")


class TrainingStopped(ConsiliaError):
    """Local training was told to stop (the job was aborted or the round timed out)."""


def never() -> bool:
    """The stop signal of an engine that cannot be aborted."""
    return False


class Learner(Generic[C]):
    """Trains one site's model from the global state with the task's own loss unless a method overrides :meth:`loss`.

    A model whose image encoder is frozen and reads nothing that is trained says so by ``encoder_is_frozen``; what its
    ``encode`` gives is then computed once per case and kept, and training runs its ``decode`` alone.

    Args:
        model: the network; what it exchanges is overwritten by every task.
        data: this site's cases.
        training: local optimisation.
        config: the method's own parameters.
        seed: run seed; batches of round r come from (seed, site, r) alone.
        should_stop: polled between batches.
    """

    tasks: ClassVar[tuple[str, ...]] = tuple(TASKS)
    personal: ClassVar[bool] = True
    """Whether every site makes a personal model of the global one when the rounds are over."""

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
        # Its forward, encode and decode are its own: torch types none of them.
        self.model: Any = model.to(self.device)
        self.data, self.training, self.config = data, training, config
        self.seed, self.should_stop = seed, should_stop
        self.task = TASKS[data.task]
        self.task.require()
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._encoded: dict[int, tuple[Split, Tensor]] = {}
        self._draw = torch.Generator()

    # What a method may override ---------------------------------------------------------------------------------

    @classmethod
    def tells(cls, config: C) -> frozenset[str]:
        """Which of :data:`OPTIONAL` and :data:`FLIPS` a site sends: hospitals approve these fields, and no others."""
        return FLIPS

    def begin(self) -> None:
        """Called once the model holds the global state, before the first step (to keep a teacher, an anchor, ...)."""

    def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """The loss of one batch: scalar, to be minimised."""
        return self.task.loss(self.network, inputs, labels, self._draw)

    def score(self) -> tuple[float | None, dict[str, float]]:
        """After training: the method's aggregation score (None = weigh by samples) and metrics to report with it."""
        return None, {}

    def ablated(self) -> AbstractContextManager[None] | None:
        """A state of the model without the method's personal touch, for the final figures; None = nothing to take."""
        return None

    def attention(self, split: Split) -> Tensor | None:
        """A map (N, h, w) per case for the site's own report; None = the method has none."""
        return None

    # What every method shares -----------------------------------------------------------------------------------

    @property
    def network(self) -> Network:
        """The model as it is called on :meth:`inputs`."""
        return network_of(self.model, encoded=self.encoder_is_frozen)

    def train(self, state: Mapping[str, Tensor], round_number: int, *, epochs: int | None = None) -> Update:
        """Train on the site's train split from the given global state.

        Args:
            state: the global model's tensors.
            round_number: 1-based; decides batches and learning rate (decayed once per finished round).
            epochs: passes over the train split; the configured local_epochs by default.

        Returns:
            The update: what the model exchanges, n_k, the method's score, ``train_loss`` (mean over the last epoch).
        """
        self.load(state)
        self.begin()
        optimiser = self._optimiser(round_number)
        order = generator(self.seed, "batches", self.data.site, round_number)
        self._draw = generator(self.seed, "draw", self.data.site, round_number)
        mean_loss = 0.0
        # Dropout and stochastic depth draw from torch's global generator.
        with seeded(self.seed, "noise", self.data.site, round_number):
            for _ in range(self.training.local_epochs if epochs is None else epochs):
                mean_loss = self._epoch(optimiser, order)
        score, metrics = self.score()
        return Update(self.state(), len(self.data.train), score, {"train_loss": mean_loss, **metrics})

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Overwrite what the model exchanges with the given state; what is frozen stays."""
        load_exchanged(self.model, state)

    def state(self) -> dict[str, Tensor]:
        """A copy of what the model exchanges, on the CPU: plain, detached, contiguous."""
        return exchanged_state(self.model)

    @torch.no_grad()
    def answers(self, split: Split) -> dict[str, Tensor]:
        """The current model's answers on a split, in evaluation mode, on the CPU; see :mod:`consilia.methods.task`."""
        self.model.eval()
        labels, size = split.labels, self.task.at_once(split.inputs)
        pieces = [
            self.task.answer(
                self.network, piece, labels[start : start + size].to(self.device), split.case_ids[start : start + size]
            )
            for start, piece in self.pieces(split, self.inputs(split))
        ]
        if not pieces:
            return self.task.nothing(split, self.data.num_classes)
        return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}

    def measure(self, answers: Answers, split: Split, *, thorough: bool = False) -> dict[str, Any] | None:
        """Metrics of answers to a split, None where it has no case; ``thorough`` adds what is slow."""
        return self.task.figures(answers, split, thorough=thorough)

    def right(self, answers: Answers, split: Split) -> Tensor | None:
        """Which cases of a split are right, (N,) bool, where that makes sense."""
        return self.task.right(answers, split)

    def pieces(self, split: Split, inputs: Tensor | None = None) -> Iterator[tuple[int, Tensor]]:
        """As many of a split's inputs (or of what was made of them) as fit at once, on the device, from which on."""
        inputs, size = split.inputs if inputs is None else inputs, self.task.at_once(split.inputs)
        for start in range(0, len(split), size):
            yield start, inputs[start : start + size].to(self.device)

    def check_model(self) -> None:
        """Raise :class:`ConfigError` unless the model takes this site's inputs and answers as many classes."""
        split = self.data.test if self.data.is_evaluator else self.data.train
        probe = Split(split.inputs[:1], split.labels[:1], split.case_ids[:1])
        for answer in tried(lambda: self.answers(probe), self.model, probe).values():
            expected = (1, self.data.num_classes) if self.data.task == "classification" else probe.labels.shape
            if answer.shape != expected:
                raise ConfigError(f"the model answers {tuple(answer.shape)}, the data need {tuple(expected)}")

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

    def _optimiser(self, round_number: int) -> torch.optim.Optimizer:
        settings = self.training
        rate = settings.learning_rate * settings.learning_rate_decay ** (round_number - 1)
        if settings.optimiser == "adamw":
            return torch.optim.AdamW(self.trained, lr=rate, weight_decay=settings.weight_decay)
        return torch.optim.SGD(self.trained, lr=rate, momentum=settings.momentum, weight_decay=settings.weight_decay)

    def _epoch(self, optimiser: torch.optim.Optimizer, order: torch.Generator) -> float:
        inputs, labels = self.inputs(self.data.train), self.data.train.labels
        self.model.train()
        total = torch.zeros((), device=self.device)
        for indices in batches(len(self.data.train), self.training.batch_size, order):
            loss = self.loss(inputs[indices].to(self.device), labels[indices].to(self.device))
            total += self.step(optimiser, loss) * len(indices)
        return float(total) / len(self.data.train)

    def step(self, optimiser: torch.optim.Optimizer, loss: Tensor) -> Tensor:
        """One step of the optimiser on a batch's loss, which is returned detached.

        Raises:
            TrainingStopped: the engine said so.
        """
        if self.should_stop():
            raise TrainingStopped(f"training at site {self.data.site!r} was told to stop")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.training.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.trained, self.training.gradient_clip)
        optimiser.step()
        return loss.detach()


def tried(answer: Callable[[], T], model: nn.Module, probe: Split) -> T:
    """What a model answers to a probe; raises :class:`ConfigError` if it does not take such inputs."""
    try:
        return answer()
    # Models of other libraries say what does not fit in many ways; timm asserts.
    except (RuntimeError, ValueError, AssertionError) as error:
        shape = tuple(probe.inputs.shape)
        raise ConfigError(f"model {type(model).__name__} does not take inputs of shape {shape}: {error}") from error


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
