"""Tiny foundation models of the real classes, at random weights."""

from __future__ import annotations

from typing import Any

import torch

from consilia.models.foundation import empty_foundation

SMALL_VIT: dict[str, Any] = {
    "architecture": "vit_tiny_patch16_224",
    "model_args": {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3},
}
SMALL_SAM: dict[str, Any] = {
    "model_type": "sam",
    "vision_config": {
        "hidden_size": 32,
        "output_channels": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": 8,
        # 8 = 1 x 5 + 3: a grid that a window divides would let no prompt row reach a patch in windowed layers.
        "window_size": 5,
        "global_attn_indexes": [1],
        "mlp_dim": 64,
        # transformers' default is 1e-10: gradients would vanish.
        "initializer_range": 0.02,
        "num_pos_feats": 8,
    },
    "prompt_encoder_config": {"hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 4},
    "mask_decoder_config": {"hidden_size": 16, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16},
}


def small_vit() -> Any:
    """A ViT of 2 blocks on 32 x 32 images, 16 patches of 24 channels."""
    return empty_foundation(SMALL_VIT)


def small_sam() -> Any:
    """A SAM on 64 x 64 images: a windowed and a global layer, 8 x 8 patches of 32 channels.

    Its weights are drawn larger than at initialisation, where all masks are 0 but for rounding.
    """
    sam = empty_foundation(SMALL_SAM)
    for parameter in sam.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.25)
    return sam
