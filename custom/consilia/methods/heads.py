"""What methods share that treat a model's head, its last linear layer, apart from its body."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TypeVar

from pydantic import Field
from torch import nn

from consilia.core.errors import ConfigError
from consilia.methods.client import CannotEvaluate, Client, ClientContext, Round
from consilia.methods.config import MethodConfig
from consilia.methods.contract import Method, State
from consilia.methods.fit import FitResult
from consilia.models.head import head_name, head_tensors

Part = Literal["head", "body"]


class HeadConfig(MethodConfig):
    """Parameters of a method that must know the model's head."""

    head: str | None = Field(
        None, description="name of the model's last linear layer; null: as the model's attribute head says"
    )


H = TypeVar("H", bound=HeadConfig)


class HeadClient(Client[H]):
    """A client that can train head and body apart.

    Attributes:
        head: the name of the model's head.
    """

    def __init__(self, method: Method[H], context: ClientContext) -> None:
        super().__init__(method, context)
        self.head = head_name(self.model, self.config.head)
        self._of_head = set(head_tensors(self.model, self.head))

    def fit_part(self, round_: Round, part: Part, *, epochs: int | None = None, purpose: str = "") -> FitResult:
        """:meth:`fit` of one part; the other has no gradient, no decay, no momentum, and is in evaluation mode.

        Layers without parameters, dropout say, count as the body's.
        """
        chosen = {name: it for name, it in self.parameters.items() if (name in self._of_head) == (part == "head")}

        def training_mode() -> None:
            self.model.train(part == "body")
            self.model.get_submodule(self.head).train(part == "head")

        with self._frozen(self.parameters.keys() - chosen.keys()):
            return self.fit(round_, epochs=epochs, purpose=purpose, parameters=chosen, training_mode=training_mode)

    @contextmanager
    def _frozen(self, names: set[str]) -> Iterator[None]:
        """The named parameters need no gradient inside the block. What is exchanged is known by then, and stays."""
        for name in names:
            self.parameters[name].requires_grad_(False)
        try:
            yield
        finally:
            for name in names:
                self.parameters[name].requires_grad_(True)


class PrivateHeadClient(HeadClient[H]):
    """A client whose head never leaves the site: the contract keeps it there, as what is trained and not exchanged."""

    def state_for(self, kind: str, global_state: State) -> State:
        """What is exchanged, which at a training site meets the head that the site has trained."""
        if kind == "global" and self.data.is_test_only:
            raise CannotEvaluate(
                f"with {self.method.name} every site has a head of its own, trained on its own cases; this site trains "
                "none, so there is no model to evaluate here"
            )
        return super().state_for(kind, global_state)


class BodyMethod(Method[H]):
    """A method that exchanges all that is trained but the head."""

    def exchanged(self, model: nn.Module) -> list[str]:
        """What is trained, with its buffers, except for the head.

        Raises:
            ConfigError: the head is not known, or nothing else of the model is trained.
        """
        head = head_name(model, self.config.head)
        of_head = set(head_tensors(model, head))
        body = [name for name in super().exchanged(model) if name not in of_head]
        if not body:
            raise ConfigError(
                f"method {self.name} exchanges the body of a model, and all that is trained of {type(model).__name__} "
                f"is its head {head!r}: take a model with more layers, or train the encoder too"
            )
        return body
