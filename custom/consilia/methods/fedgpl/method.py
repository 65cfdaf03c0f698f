"""Fed-GPL: local training as it is, of a model whose generator writes a prompt for every image.

A site also reports how different its prompts are from image to image, and after the rounds the metrics of the global
model with every image's query replaced by the mean query: how much the prompts are worth that follow the image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from consilia.core.errors import ConfigError
from consilia.data.dataset import Split
from consilia.methods.client import Client, ClientContext, Round
from consilia.methods.config import MethodConfig
from consilia.methods.contract import Method, ReplyField, Update
from consilia.models.prompt_generator import PromptGenerator, prompt_diversity

if TYPE_CHECKING:
    from consilia.record.schema import Record
    from consilia.report.panel import Panel

MEAN_PROMPT = "mean_prompt"

ATTENTION = (
    "the brighter a place, the more the prompts that the global model made for this image attend to it in the last of "
    "the network's layers that see the whole image; the blue line encloses what gets more than half-way between "
    "the least and the most. It shows where they look, not why the model decides."
)


class FedGPLConfig(MethodConfig):
    """Fed-GPL's one parameter; prompt length and generator are arguments of the model."""

    num_diversity_images: int = Field(64, ge=2, description="training images over which prompt diversity is measured")


class FedGPLClient(Client[FedGPLConfig]):
    """Local training as it is; the model's generator is what makes it Fed-GPL."""

    attention_meaning = ATTENTION

    def __init__(self, method: Method[FedGPLConfig], context: ClientContext) -> None:
        super().__init__(method, context)
        self.generator = _generator_of(self.model)

    def train(self, round_: Round) -> Update:
        """Local training, and the prompt diversity of the trained generator."""
        self.load(round_.state)
        result = self.fit(round_)
        found = self._prompt_diversity()
        return self.update(result, fields={} if found is None else {"prompt_diversity": found})

    def variant(self, name: str) -> AbstractContextManager[None]:
        """The model with every image's query replaced by the mean query over the site's images."""
        return self._mean_prompt()

    @torch.no_grad()
    def attention(self, split: Split) -> Tensor | None:
        """How much the prompts attend to each patch of each image: (N, h, w)."""
        self.model.eval()
        pieces = [self.model.attention(piece).cpu() for _, piece in self.pieces(split)]
        return torch.cat(pieces) if pieces else None

    @torch.no_grad()
    def _prompt_diversity(self) -> float | None:
        """Of the trained generator, over some of the site's training images."""
        self.model.eval()
        images = self.data.train.inputs[: self.config.num_diversity_images]
        pieces = images.split(self.task.at_once(images))
        prompts = torch.cat([self.generator(self.model.patches(piece.to(self.device))) for piece in pieces])
        return prompt_diversity(prompts)

    @contextmanager
    def _mean_prompt(self) -> Iterator[None]:
        # A test-only site has no training images: its test images' queries then do.
        split = self.data.test if self.data.is_test_only else self.data.train
        with torch.no_grad():
            self.model.eval()
            total = torch.zeros((), device=self.device)
            for _, piece in self.pieces(split):
                total = total + self.generator.query(self.model.patches(piece)).sum(dim=0, keepdim=True)
        self.generator.fixed_query = total / len(split)
        try:
            yield
        finally:
            self.generator.fixed_query = None


class FedGPL(Method[FedGPLConfig]):
    """Federated averaging of generator, prompt and head or decoder."""

    name = "fedgpl"
    Config = FedGPLConfig
    tasks: ClassVar[tuple[str, ...]] = ("classification", "segmentation")
    any_model = False

    def fields(self) -> tuple[ReplyField, ...]:
        """How far the generated prompts differ between images."""
        meaning = "how far the generated prompts differ between images, one number; 0 = every image gets the same"
        return (ReplyField("prompt_diversity", meaning, 0.0, 1e3, "Prompt diversity"),)

    def variants(self) -> tuple[str, ...]:
        """The mean-prompt ablation."""
        return (MEAN_PROMPT,)

    @classmethod
    def panels(cls, records: Sequence[Record]) -> list[Panel]:
        """Whether the prompts differ between images."""
        from consilia.methods.fedgpl.panels import comparison_panels, run_panels

        return run_panels(records[0]) if len(records) == 1 else comparison_panels(records)

    def client(self, context: ClientContext) -> FedGPLClient:
        """The site's half."""
        return FedGPLClient(self, context)


def _generator_of(model: nn.Module) -> PromptGenerator:
    """The model's prompt generator. Raises :class:`ConfigError` for a model that has none."""
    found = getattr(model, "prompt_generator", None)
    if not isinstance(found, PromptGenerator) or found.variant == "none":
        raise ConfigError(
            f"method fedgpl trains a prompt generator, and {type(model).__name__} has none: use "
            "consilia.models.prompted_vit.PromptedViT or consilia.models.prompted_sam.PromptedSam with "
            "generator: released or normalised"
        )
    return found
