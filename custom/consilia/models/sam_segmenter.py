"""SAM as a segmenter that can be trained: image encoder with gradient, frozen prompt encoder, mask decoder."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from consilia.models.prompted_vit import Backbone, in_colour


@dataclass(frozen=True)
class MaskPrompts:
    """What a person would show SAM of each image, in pixels of the model's input.

    Attributes:
        boxes: (B, 4) float: x1, y1, x2, y2.
        points: (B, P, 2) float, x and y; None for none.
        point_labels: (B, P): 1 inside, 0 outside, -1 no point.
        has_box: (B,) bool; None = all have one.
    """

    boxes: Tensor
    points: Tensor | None = None
    point_labels: Tensor | None = None
    has_box: Tensor | None = None


class SamSegmenter(nn.Module):
    """Base of the SAM models here: ``decode(encode(images), prompts)`` gives one mask per image.

    Args:
        sam: transformers' ``SamModel``. Its prompt encoder and its positional constants are never trained.
    """

    encoder_is_frozen = False
    sam: Backbone

    def __init__(self, sam: Backbone) -> None:
        super().__init__()
        self.sam = sam
        sam.requires_grad_(False).eval()
        self.image_size: int = sam.config.vision_config.image_size

    def train(self, mode: bool = True) -> SamSegmenter:
        """SAM has no dropout of its own by default; where a configuration has some, it stays off."""
        super().train(mode)
        self.sam.eval()
        return self

    def forward(self, images: Tensor, prompts: MaskPrompts, *, refine: bool = False) -> Tensor:
        """Images (B, 3 or 1, S, S) -> mask logits (B, S, S); > 0 is the structure."""
        return self.decode(self.encode(images), prompts, refine=refine)

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3 or 1, S, S) -> image embedding (B, C, g, g)."""
        return self.through_layers(self.embed(images))

    def embed(self, images: Tensor) -> Tensor:
        """Patch embeddings (B, g, g, d) before position embedding.

        Raises:
            ValueError: images of another size; SAM does not interpolate its positions.
        """
        if images.shape[-2:] != (self.image_size, self.image_size):
            size = self.image_size
            raise ValueError(f"SAM takes images of {size} x {size}, got {images.shape[-2]} x {images.shape[-1]}")
        embedding: Tensor = self.sam.vision_encoder.patch_embed(
            in_colour(images, self.sam.config.vision_config.num_channels)
        )
        return embedding

    def through_layers(self, patches: Tensor, rows: Tensor | None = None) -> Tensor:
        """Position embedding, layers and neck; ``rows`` (B, n, g, d) go below the feature map until the end."""
        encoder = self.sam.vision_encoder
        states = self.positioned(patches, rows)
        for layer in encoder.layers:
            states = layer(states)
        embedding: Tensor = encoder.neck(states[:, : patches.shape[1]])
        return embedding

    def positioned(self, patches: Tensor, rows: Tensor | None) -> Tensor:
        """The first layer's input: (B, g + n, g, d)."""
        encoder = self.sam.vision_encoder
        states = patches if encoder.pos_embed is None else patches + encoder.pos_embed
        return states if rows is None else torch.cat([states, rows], dim=1)

    def decode(self, embedding: Tensor, prompts: MaskPrompts, *, refine: bool = False) -> Tensor:
        """Image embedding (B, C, g, g) -> mask logits (B, S, S).

        With ``refine`` (training, specification 3.3) a first pass proposes three masks, and the one with the highest
        predicted IoU becomes the mask prompt of the second pass; no gradient goes through it.
        """
        sam = self.sam
        position = sam.get_image_wide_positional_embeddings().expand(len(embedding), -1, -1, -1)
        with torch.no_grad():
            sparse, dense = self._prompt_tokens(prompts)
        if refine:
            with torch.no_grad():
                masks, quality = self._masks(embedding, position, sparse, dense, several=True)
                best = quality[:, 0].argmax(dim=1)
                chosen = masks[torch.arange(len(masks), device=masks.device), 0, best]
                dense = sam.prompt_encoder.mask_embed(chosen[:, None])
        masks, _ = self._masks(embedding, position, sparse, dense, several=False)
        size = (self.image_size, self.image_size)
        return functional.interpolate(masks[:, 0], size=size, mode="bilinear", align_corners=False)[:, 0]

    def _masks(
        self, embedding: Tensor, position: Tensor, sparse: Tensor, dense: Tensor, *, several: bool
    ) -> tuple[Tensor, Tensor]:
        """Low-resolution logits (B, 1, 3 or 1, 4g, 4g) and predicted IoU (B, 1, 3 or 1)."""
        masks, quality = self.sam.mask_decoder(
            image_embeddings=embedding,
            image_positional_embeddings=position,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=several,
        )
        return masks, quality

    def _prompt_tokens(self, prompts: MaskPrompts) -> tuple[Tensor, Tensor]:
        """Sparse (B, 1, tokens, C) and dense (B, C, g, g) prompt embeddings.

        In a batch some images may lack a box: its tokens become SAM's "not a point", as a missing point's do.
        """
        encoder = self.sam.prompt_encoder
        points = None if prompts.points is None else prompts.points[:, None]
        labels = None if prompts.point_labels is None else prompts.point_labels[:, None]
        sparse, dense = encoder(
            input_points=points, input_labels=labels, input_boxes=prompts.boxes[:, None], input_masks=None
        )
        if prompts.has_box is not None:
            nothing = encoder.not_a_point_embed.weight.expand_as(sparse[:, :, -2:])
            corners = torch.where(prompts.has_box[:, None, None, None], sparse[:, :, -2:], nothing)
            sparse = torch.cat([sparse[:, :, :-2], corners], dim=2)
        return sparse, dense
