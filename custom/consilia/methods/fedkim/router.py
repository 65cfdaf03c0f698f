"""FedKIM's router: how much each expert counts, from what a task is and which modalities it has."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class ExpertRouter(nn.Module):
    """alpha = softmax(W^o mean(beta)), beta = softmax((W^q M)(W^k T)^T / sqrt(d)) W^v T (arXiv 2408.10276, step 2).

    M and T are the language model's token embeddings of the modality's and the task's description. One head; every
    projection has a bias. Padding takes no part: padded keys get no attention, padded queries do not enter the mean. So
    the gates depend neither on the length of the padding nor on the other rows of a batch (to 1e-6, not bitwise: how a
    matrix product is summed depends on its size). The gate is dense: all experts count, none is left out.

    Args:
        embedding_dim: d, width of the language model's token embeddings.
        num_experts: P, at least 2; the gate of a single expert is always 1.

    Raises:
        ValueError: a number out of range.
    """

    def __init__(self, embedding_dim: int, num_experts: int) -> None:
        super().__init__()
        if embedding_dim < 1 or num_experts < 2:
            raise ValueError(
                f"a router needs embedding_dim of at least 1 and at least 2 experts, got {embedding_dim}, {num_experts}"
            )
        self.embedding_dim, self.num_experts = embedding_dim, num_experts
        self.query = nn.Linear(embedding_dim, embedding_dim)
        self.key = nn.Linear(embedding_dim, embedding_dim)
        self.value = nn.Linear(embedding_dim, embedding_dim)
        self.output = nn.Linear(embedding_dim, num_experts)

    def forward(self, modality: Tensor, modality_mask: Tensor, task: Tensor, task_mask: Tensor) -> Tensor:
        """Gates alpha (B, P), in the router's own precision; rows sum to 1.

        Args:
            modality: (B, Lm, d) embeddings of the modality descriptions, the queries.
            modality_mask: (B, Lm), nonzero where a token is real.
            task: (B, Lt, d) embeddings of the task descriptions, keys and values.
            task_mask: (B, Lt), nonzero where a token is real.

        Raises:
            ValueError: shapes that do not belong together, or a description without a real token.
        """
        dtype = self.query.weight.dtype
        queries_real = self._mask("modality", modality, modality_mask)
        keys_real = self._mask("task", task, task_mask)
        if len(modality) != len(task):
            raise ValueError(f"as many modality as task descriptions expected, got {len(modality)} and {len(task)}")
        modality, task = modality.to(dtype), task.to(dtype)
        attended = functional.scaled_dot_product_attention(
            self.query(modality), self.key(task), self.value(task), attn_mask=keys_real[:, None]
        )
        real = queries_real[..., None].to(dtype)
        pooled = (attended * real).sum(1) / real.sum(1)
        return torch.softmax(self.output(pooled), dim=-1)

    def _mask(self, name: str, embeddings: Tensor, mask: Tensor) -> Tensor:
        """The mask as booleans, after checks; the names are for the messages."""
        if embeddings.dim() != 3 or embeddings.shape[-1] != self.embedding_dim or mask.shape != embeddings.shape[:-1]:
            raise ValueError(
                f"{name}: embeddings (B, L, {self.embedding_dim}) and a mask (B, L) expected, "
                f"got {tuple(embeddings.shape)} and {tuple(mask.shape)}"
            )
        real = mask != 0
        empty = (~real.any(1)).nonzero().flatten().tolist()
        if empty:
            raise ValueError(f"{name}: descriptions without a single real token in rows {empty} of the batch")
        return real
