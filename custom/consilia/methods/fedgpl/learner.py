"""Fed-GPL at a site: the task's loss, and a watch on whether the prompts are any different from image to image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from consilia.core.errors import ConfigError
from consilia.data.dataset import Split
from consilia.methods.fedgpl.config import FedGPLConfig
from consilia.methods.learner import FLIPS, Learner
from consilia.models.prompt_generator import PromptGenerator, individuality


class FedGPLLearner(Learner[FedGPLConfig]):
    """Local training as it is; the model's generator is what makes it Fed-GPL."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.generator = _generator_of(self.model)

    @torch.no_grad()
    def score(self) -> tuple[float | None, dict[str, float]]:
        """No score; the individuality ratio of the trained generator over some of the site's training images."""
        self.model.eval()
        images = self.data.train.inputs[: self.config.watch_images]
        pieces = images.split(self.task.at_once(images))
        prompts = torch.cat([self.generator(self.model.patches(piece.to(self.device))) for piece in pieces])
        found = individuality(prompts)
        return None, {} if found is None else {"individuality": found}

    @classmethod
    def tells(cls, config: FedGPLConfig) -> frozenset[str]:
        """Also the individuality ratio and the figures of the mean query."""
        return FLIPS | {"individuality", "mean_query"}

    def ablated(self) -> AbstractContextManager[None] | None:
        """The model with every image's query replaced by the mean query over the site's images."""
        return self._mean_query()

    @torch.no_grad()
    def attention(self, split: Split) -> Tensor | None:
        """How much the prompts attend to each patch of each image: (N, h, w)."""
        self.model.eval()
        size = self.task.at_once(split.inputs)
        pieces = [
            self.model.attention(split.inputs[start : start + size].to(self.device)).cpu()
            for start in range(0, len(split), size)
        ]
        return torch.cat(pieces) if pieces else None

    @contextmanager
    def _mean_query(self) -> Iterator[None]:
        # An external test site has no training images: its test images' queries then do.
        split = self.data.test if self.data.is_evaluator else self.data.train
        generator, size = self.generator, self.task.at_once(split.inputs)
        with torch.no_grad():
            self.model.eval()
            total = torch.zeros((), device=self.device)
            for start in range(0, len(split), size):
                patches = self.model.patches(split.inputs[start : start + size].to(self.device))
                total = total + generator.query(patches).sum(dim=0, keepdim=True)
        generator.fixed_query = total / len(split)
        try:
            yield
        finally:
            generator.fixed_query = None


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
