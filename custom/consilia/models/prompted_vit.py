"""A frozen vision transformer that reads prompts written for each image: Fed-GPL's classifier, and VPT-shallow."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from consilia.models.prompt_generator import PromptGenerator, Variant

Backbone = Any
"""A module of another library whose parts carry no types."""


class PromptedViT(nn.Module):
    """Frozen ViT + prompt generator + linear head (specification 2.2): only generator, prompt and head are trained.

    ``Z_0 = [cls; patches; P(x)]``: the prompts go last, get no position embedding, enter at the first block only and
    are dropped after the last; the head sees the normed class token.

    Args:
        backbone: a timm ``VisionTransformer`` without head; it is frozen and stays in evaluation mode.
        num_classes: number of classes C.
        prompt_length: n, prompts per image.
        generator: ``released``, ``normalised`` or ``none`` (= VPT-shallow); see
            :class:`~consilia.models.prompt_generator.PromptGenerator`.
    """

    encoder_is_frozen = True
    backbone: Backbone

    def __init__(
        self, backbone: Backbone, num_classes: int, *, prompt_length: int = 10, generator: Variant = "released"
    ) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False).eval()
        embedding = backbone.patch_embed
        side, patch = embedding.img_size[0], embedding.patch_size[0]
        self.prompt_generator = PromptGenerator(
            tokens=embedding.num_patches,
            dim=backbone.embed_dim,
            units=prompt_length,
            heads=backbone.blocks[0].attn.num_heads,
            # Fed-GPL's released code takes the image's side here, VPT the patch's.
            fan=patch if generator == "none" else side,
            variant=generator,
        )
        self.head = nn.Linear(backbone.num_features, num_classes)

    def train(self, mode: bool = True) -> PromptedViT:
        """Training mode for all but the backbone, whose dropout (if it has any) stays off."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3 or 1, S, S) -> logits (B, C)."""
        return self.decode(self.encode(images))

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Images -> patch embeddings (B, T, d) before position embedding: all that no prompt has a part in."""
        embedding = self.backbone.patch_embed
        patches: Tensor = embedding(in_colour(images, embedding.proj.in_channels))
        return patches

    def decode(self, patches: Tensor) -> Tensor:
        """Patch embeddings (B, T, d) -> logits (B, C)."""
        tokens = self._tokens(patches)
        logits: Tensor = self.head(run_blocks(self.backbone, self._prompted(patches, tokens), tokens.shape[1]))
        return logits

    def patches(self, images: Tensor) -> Tensor:
        """What the generator pools its query from: patch embeddings (B, T, d)."""
        return self.encode(images)

    @torch.no_grad()
    def attention(self, images: Tensor) -> Tensor:
        """How much the prompts attend to each patch in the last block: (B, rows, columns), rows sum to at most 1.

        Mean over prompts and heads.
        """
        patches = self.encode(images)
        tokens = self._tokens(patches)
        states = self._prompted(patches, tokens)
        *before, last = self.backbone.blocks
        for block in before:
            states = block(states)
        query, key, _ = _projections(last.attn, last.norm1(states))
        weights = (query[:, :, tokens.shape[1] :] * last.attn.scale @ key.transpose(-2, -1)).softmax(dim=-1)
        first = tokens.shape[1] - patches.shape[1]
        to_patches: Tensor = weights.mean(dim=(1, 2))[:, first : tokens.shape[1]]
        return to_patches.reshape(len(images), *self.backbone.patch_embed.grid_size)

    @torch.no_grad()
    def _tokens(self, patches: Tensor) -> Tensor:
        """The frozen encoder's input without prompts: class token and patches with their positions."""
        tokens: Tensor = self.backbone.norm_pre(self.backbone._pos_embed(patches))
        return tokens

    def _prompted(self, patches: Tensor, tokens: Tensor) -> Tensor:
        return torch.cat([tokens, self.prompt_generator(patches).flatten(1, 2)], dim=1)


def in_colour(images: Tensor, channels: int) -> Tensor:
    """Grey images (B, 1, H, W) repeated to as many channels as the model has; others as they are."""
    return images.expand(-1, channels, -1, -1) if images.shape[1] == 1 else images


def run_blocks(backbone: Backbone, states: Tensor, keep: int) -> Tensor:
    """The blocks of a timm ViT on tokens (B, L, d), the last L - ``keep`` dropped at the end -> pooled features (B, d).

    Where only the class token is read, the last block computes its row alone: the same result for less work.
    """
    *before, last = backbone.blocks
    for block in before:
        states = block(states)
    if backbone.global_pool == "token" and _is_plain(last):
        tokens = _class_row(last, states)
    else:
        tokens = last(states)[:, :keep]
    pooled: Tensor = backbone.forward_head(backbone.norm(tokens), pre_logits=True)
    return pooled


def _is_plain(block: Backbone) -> bool:
    """Whether a block is timm's standard one, whose steps :func:`_class_row` repeats."""
    from timm.layers import Attention
    from timm.models.vision_transformer import Block

    attention = getattr(block, "attn", None)
    return type(block) is Block and type(attention) is Attention and getattr(attention, "gate", None) is None


def _class_row(block: Backbone, states: Tensor) -> Tensor:
    """Row 0 of ``block(states)``: (B, L, d) -> (B, 1, d)."""
    attention = block.attn
    normed = block.norm1(states)
    wide = attention.attn_dim
    weight, bias = attention.qkv.weight, attention.qkv.bias
    query = functional.linear(normed[:, :1], weight[:wide], None if bias is None else bias[:wide])
    both = functional.linear(normed, weight[wide:], None if bias is None else bias[wide:])
    query, key, value = (_heads(attention, part) for part in (query, *both.chunk(2, dim=-1)))
    mixed = functional.scaled_dot_product_attention(attention.q_norm(query), attention.k_norm(key), value)
    row = attention.proj(attention.norm(mixed.transpose(1, 2).flatten(2)))
    row = states[:, :1] + block.drop_path1(block.ls1(attention.proj_drop(row)))
    result: Tensor = row + block.drop_path2(block.ls2(block.mlp(block.norm2(row))))
    return result


def _projections(attention: Backbone, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = (_heads(attention, part) for part in attention.qkv(normed).chunk(3, dim=-1))
    return attention.q_norm(query), attention.k_norm(key), value


def _heads(attention: Backbone, tokens: Tensor) -> Tensor:
    """(B, L, d) -> (B, h, L, d / h)."""
    return tokens.reshape(*tokens.shape[:2], attention.num_heads, attention.head_dim).transpose(1, 2)
