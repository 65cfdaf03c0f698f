"""FedKIM's knowledge extractor: one encoder per modality, shared by the tasks that read it, and one head per task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from consilia.models.encoders import ImageEncoder, SeriesEncoder, SignalEncoder, TableEncoder

ENCODERS = {"image": ImageEncoder, "signal": SignalEncoder, "series": SeriesEncoder, "table": TableEncoder}
ENCODER, HEAD = "encoders.", "heads."
"""How the names of an encoder's and a head's tensors begin; modality or task and a dot follow."""


class KnowledgeExtractor(nn.Module):
    """f(x) = DEC_t(ENC_m(x)): logits of a task's answers (FedKIM, client objective).

    An encoder that no head reads is not trained here and so never travels: it belongs to modalities of unseen tasks,
    which the server alone has.

    Args:
        foundation: a vision transformer for the image encoder to start from.
        encoders: by modality, ``kind`` (image, signal, series or table) and the arguments of its class.
        heads: by task, its ``modalities`` that have encoders and the number of its ``answers``.
        width: of all tokens.
    """

    def __init__(
        self,
        foundation: nn.Module | None = None,
        *,
        encoders: Mapping[str, Mapping[str, Any]],
        heads: Mapping[str, Mapping[str, Any]],
        width: int = 128,
    ) -> None:
        super().__init__()
        images = sorted(name for name, given in encoders.items() if given.get("kind") == "image")
        if foundation is not None and len(images) != 1:
            raise ValueError(f"a foundation model is for the one image encoder, got image encoders {images}")
        self.width = width
        self.encoders = nn.ModuleDict({name: _encoder(width, foundation, **given) for name, given in encoders.items()})
        self.reads = {task: tuple(head["modalities"]) for task, head in heads.items()}
        for task, modalities in self.reads.items():
            unknown = sorted(set(modalities) - set(encoders))
            if unknown:
                raise ValueError(f"task {task} reads {unknown}, there are encoders for {sorted(encoders)}")
        self.heads = nn.ModuleDict({task: _head(width, **head) for task, head in heads.items()})
        used = {modality for modalities in self.reads.values() for modality in modalities}
        for name, encoder in self.encoders.items():
            if name not in used:
                encoder.requires_grad_(False)

    def forward(self, inputs: Tensor, task: str) -> Tensor:
        """Logits (B, answers) of one task for its inputs: its head on the mean token of each modality."""
        means = [self.encoders[modality](inputs).mean(dim=1) for modality in self.reads[task]]
        logits: Tensor = self.heads[task](torch.cat(means, dim=1))
        return logits

    def tokens(self, inputs: Tensor, modality: str) -> Tensor:
        """What one modality's encoder makes of the inputs: (B, n, width)."""
        tokens: Tensor = self.encoders[modality](inputs)
        return tokens


def _encoder(width: int, foundation: nn.Module | None, *, kind: str, **arguments: Any) -> nn.Module:
    if kind not in ENCODERS:
        raise ValueError(f"an encoder's kind is one of {sorted(ENCODERS)}, got {kind!r}")
    if kind == "image" and foundation is not None:
        arguments["vit"] = foundation
    encoder: nn.Module = ENCODERS[kind](width, **arguments)
    return encoder


def _head(width: int, *, modalities: tuple[str, ...], answers: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width * len(modalities), width), nn.ReLU(), nn.Linear(width, answers))
