"""A frozen SAM whose feature map gets prompt rows written for each image: Fed-GPL's segmenter, and VPT-shallow."""

from __future__ import annotations

import torch
from torch import Tensor

from consilia.models.prompt_generator import PromptGenerator, Variant
from consilia.models.prompted_vit import Backbone
from consilia.models.sam_segmenter import SamSegmenter

GENERATOR_HEADS = 8
"""Attention heads of SAM's generator, whatever the encoder has (specification 2.3)."""


class PromptedSam(SamSegmenter):
    """Frozen SAM + prompt generator (specification 2.3); generator, prompt and mask decoder are trained.

    The prompt is n rows of g tokens below the g x g feature map: they go through all layers without position embedding
    and are cut before the neck. Windowed layers let a row reach patches only where the grid leaves a remainder.

    Args:
        sam: transformers' ``SamModel``; all but its mask decoder is frozen.
        prompt_rows: n.
        generator: ``released``, ``normalised`` or ``none`` (= VPT-shallow).
    """

    def __init__(self, sam: Backbone, *, prompt_rows: int = 1, generator: Variant = "released") -> None:
        super().__init__(sam)
        vision = sam.config.vision_config
        self.grid = vision.image_size // vision.patch_size
        self.prompt_generator = PromptGenerator(
            tokens=self.grid**2,
            dim=vision.hidden_size,
            units=prompt_rows,
            heads=GENERATOR_HEADS,
            fan=vision.patch_size if generator == "none" else vision.image_size,
            width=self.grid,
            variant=generator,
        )
        sam.mask_decoder.requires_grad_(True)

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3 or 1, S, S) -> image embedding (B, C, g, g), with gradient to the generator."""
        with torch.no_grad():
            patches = self.embed(images)
        return self.through_layers(patches, self.prompt_generator(patches.flatten(1, 2)))

    @torch.no_grad()
    def patches(self, images: Tensor) -> Tensor:
        """What the generator pools its queries from: (B, T, d)."""
        return self.embed(images).flatten(1, 2)

    @torch.no_grad()
    def attention(self, images: Tensor) -> Tensor:
        """How much the prompt rows attend to each patch in the last global layer: (B, g, g).

        Mean over the rows' tokens and the heads.
        """
        from transformers.models.sam.modeling_sam import SamVisionAttention

        layers = self.sam.vision_encoder.layers
        last = max(index for index, layer in enumerate(layers) if layer.window_size == 0)
        patches = self.embed(images)
        states = self.positioned(patches, self.prompt_generator(patches.flatten(1, 2)))
        for layer in layers[:last]:
            states = layer(states)
        # The plain form of the attention: the fused one does not return its weights.
        _, weights = SamVisionAttention.forward(layers[last].attn, layers[last].layer_norm1(states))
        count = self.grid**2
        by_image = weights.reshape(len(images), -1, *weights.shape[1:])  # heads apart from images
        to_patches: Tensor = by_image[:, :, count:, :count].mean(dim=(1, 2))
        return to_patches.reshape(len(images), self.grid, self.grid)
