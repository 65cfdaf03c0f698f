"""What Fed-GPL is judged against: the same foundation models, fine-tuned whole, by LoRA, or only behind the encoder."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from consilia.models.prompted_vit import Backbone, in_colour
from consilia.models.sam_segmenter import SamSegmenter


class TunedViT(nn.Module):
    """A ViT with a linear head.

    Args:
        backbone: a timm ``VisionTransformer`` without head.
        num_classes: number of classes C.
        tune: ``all`` = every parameter; ``lora`` = low-rank adapters (peft) on the attention's query, key and value
            projection, which timm keeps in one; ``head`` = the head alone, on features computed once per image.
        rank: of the adapters.
    """

    backbone: Backbone

    def __init__(
        self, backbone: Backbone, num_classes: int, *, tune: Literal["all", "lora", "head"] = "all", rank: int = 4
    ) -> None:
        super().__init__()
        _check(tune, ("all", "lora", "head"))
        backbone.requires_grad_(tune == "all")
        self.backbone = with_lora(backbone, ["qkv"], rank) if tune == "lora" else backbone
        self.head = nn.Linear(backbone.num_features, num_classes)
        self.encoder_is_frozen = tune == "head"
        self._channels: int = backbone.patch_embed.proj.in_channels

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3 or 1, S, S) -> logits (B, C)."""
        return self.decode(self.encode(images))

    def encode(self, images: Tensor) -> Tensor:
        """Images -> features (B, d)."""
        features: Tensor = self.backbone(in_colour(images, self._channels))
        return features

    def decode(self, features: Tensor) -> Tensor:
        """Features (B, d) -> logits (B, C)."""
        logits: Tensor = self.head(features)
        return logits


class TunedSam(SamSegmenter):
    """SAM without generated prompts.

    Args:
        sam: transformers' ``SamModel``.
        tune: ``all`` = image encoder and mask decoder; ``lora`` = low-rank adapters on the encoder's attention, and the
            mask decoder; ``decoder`` = the mask decoder alone, on image embeddings computed once per image.
        rank: of the adapters.
    """

    def __init__(self, sam: Backbone, *, tune: Literal["all", "lora", "decoder"] = "all", rank: int = 4) -> None:
        super().__init__(sam)
        _check(tune, ("all", "lora", "decoder"))
        sam.vision_encoder.requires_grad_(tune == "all")
        if tune == "lora":
            sam.vision_encoder = with_lora(sam.vision_encoder, ["qkv"], rank)
        sam.mask_decoder.requires_grad_(True)
        self.encoder_is_frozen = tune == "decoder"


def with_lora(module: nn.Module, targets: list[str], rank: int) -> nn.Module:
    """The module with LoRA adapters (Hu et al. 2022) in place, scaled by 1; nothing else of it is trained."""
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=targets, lora_dropout=0.0)
    adapted: nn.Module = inject_adapter_in_model(config, module)
    return adapted


def _check(tune: str, allowed: tuple[str, ...]) -> None:
    if tune not in allowed:
        raise ValueError(f"tune must be one of {allowed}, got {tune!r}")
