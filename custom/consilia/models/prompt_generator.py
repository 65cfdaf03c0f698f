"""Fed-GPL's generator: one attention layer that writes a prompt for every image from a prompt shared by all."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

Variant = Literal["released", "normalised", "none"]
VARIANTS = get_args(Variant)
EPSILON = 1e-5


class PromptGenerator(nn.Module):
    """P(x) = P + O(x): queries pooled from the image's patches attend to the shared prompt P (specification 2.2, 2.3).

    The query is a learned weighted sum over the *token* axis; keys and values come from P; one layer, no dropout, no
    position embedding. A prompt *unit* is ``width`` tokens: one token for a ViT, one row of the feature map for SAM.

    Variants: ``released`` is the published method. Its prompts are almost the same for every image at the start, since
    P is tiny and so are the differences between its keys. ``normalised`` (ours) standardises every channel of the patch
    embedding over the image's tokens before pooling, and every token of P before keys and values, without parameters;
    prompts then differ between images from the first step. ``none`` leaves P alone: VPT-shallow.

    Args:
        tokens: T, number of patches.
        dim: d, channels of a token; a multiple of ``heads``.
        units: n, number of prompt units.
        heads: attention heads of the generator.
        fan: the patch or image side s in the initialisation P ~ U(-v, v), v = sqrt(6 / (3 s^2 + d)).
        width: tokens per unit, u.
        variant: see above.

    Raises:
        ValueError: a number out of range, or an unknown variant.
    """

    def __init__(
        self, *, tokens: int, dim: int, units: int, heads: int, fan: int, width: int = 1, variant: Variant = "released"
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"generator must be one of {VARIANTS}, got {variant!r}")
        if units < 1 or dim % heads:
            raise ValueError(
                f"expected at least one prompt unit and dim a multiple of heads, got {units}, {dim}, {heads}"
            )
        self.units, self.heads, self.width, self.variant = units, heads, width, variant
        bound = math.sqrt(6 / (3 * fan * fan + dim))
        self.prompt = nn.Parameter(torch.empty(units, width, dim).uniform_(-bound, bound))
        if variant != "none":
            self.query_projection = nn.Linear(tokens, width)
            self.key_projection = nn.Linear(dim, dim)
            self.value_projection = nn.Linear(dim, dim)
            self.output_projection = nn.Linear(dim, units * dim)
        self.fixed_query: Tensor | None = None

    def forward(self, patches: Tensor) -> Tensor:
        """Patch embeddings (B, T, d), before position embedding -> prompts (B, n, u, d)."""
        if self.variant == "none":
            return self.prompt.expand(len(patches), -1, -1, -1)
        query = self.query(patches) if self.fixed_query is None else self.fixed_query.expand(len(patches), -1, -1)
        return self.prompt + self.offset(query)

    def query(self, patches: Tensor) -> Tensor:
        """(B, T, d) -> (B, u, d): weighted sums over the tokens, one learned weight per token, a scalar bias."""
        if self.variant == "normalised":
            deviation, mean = torch.std_mean(patches, dim=1, keepdim=True, correction=0)
            patches = (patches - mean) / (deviation + EPSILON)
        projection = self.query_projection
        pooled = torch.einsum("ut,btd->bud", projection.weight, patches)
        return pooled + projection.bias[:, None]

    def offset(self, query: Tensor) -> Tensor:
        """O: queries (B, u, d) attend to the n*u tokens of P -> (B, n, u, d)."""
        shared = self.prompt.flatten(0, 1)
        if self.variant == "normalised":
            shared = functional.layer_norm(shared, shared.shape[-1:])
        keys, values = self.key_projection(shared), self.value_projection(shared)
        context = functional.scaled_dot_product_attention(
            self._split(query), self._split(keys).expand(len(query), -1, -1, -1), self._split(values[None])
        )
        mixed: Tensor = self.output_projection(context.transpose(1, 2).flatten(2))
        # (B, u, n*d) read on as (B, n, u, d): for n > 1 that permutes the output's tokens, as in the released method.
        return mixed.reshape(len(query), self.units, self.width, -1)

    def _split(self, tokens: Tensor) -> Tensor:
        """(..., L, d) -> (..., h, L, d / h)."""
        return tokens.reshape(*tokens.shape[:-1], self.heads, -1).transpose(-3, -2)


def prompt_diversity(prompts: Tensor) -> float | None:
    """How far generated prompts (N, ...) differ between images: across-image standard deviation over the overall one.

    The root mean square, over the prompt's entries, of the deviation across images, divided by the standard deviation
    of all entries. 0 = one prompt for all; None for a single image.
    """
    if len(prompts) < 2:
        return None
    values = prompts.detach().double().flatten(1)
    overall = float(values.std(correction=0))
    across = float(values.var(dim=0, correction=0).mean().sqrt())
    return across / overall if overall > 0 else 0.0
