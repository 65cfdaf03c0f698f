"""The adapted linear layer of M3OE, and the gates that all layers of a model share."""

from __future__ import annotations

import math
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from consilia.methods.fedkim.m3oe.config import M3OEConfig

UNMERGEABLE = (
    "M3OE cannot be merged into the language model: its gates differ between samples, so there is no one matrix to add"
)
CHANGED = (
    "the gates were changed between the forward and the backward pass: with gradient checkpointing the layers run "
    "again in the backward pass and need the gates of the forward pass"
)


class Gates:
    """The gates alpha (B, P) of the batch that runs through the model, held until others are set.

    Held as *slots* (B, P * r), every gate repeated r times, which is what a layer multiplies with.

    Under gradient checkpointing a layer's forward pass runs again inside the backward pass; with reentrant
    checkpointing each such run has a backward pass of its own, and all of them together may pass only once through the
    router. So the layers then see a leaf that collects their gradients, and :meth:`tie` hands the sum to the router
    when the backward pass has reached the model's input, that is after the last of them.

    Attributes:
        leaf: see above; None while the layers see the gates themselves.
        checkpointed: whether the last forward pass with gradients was under gradient checkpointing.
    """

    def __init__(self, num_experts: int, r: int) -> None:
        self.num_experts, self.r = num_experts, r
        self.leaf: Tensor | None = None
        self.checkpointed = False
        self._slots: Tensor | None = None
        self._tokens = 1

    def __deepcopy__(self, memo: dict[int, Any]) -> Gates:
        """Without the values: tensors inside a graph cannot be copied."""
        memo[id(self)] = fresh = Gates(self.num_experts, self.r)
        return fresh

    def set(self, gates: Tensor) -> None:
        """Hold these gates (B, P); see :meth:`~consilia.methods.fedkim.m3oe.model.M3OEModel.set_gates`."""
        if gates.dim() != 2 or gates.shape[1] != self.num_experts or not len(gates) or not gates.is_floating_point():
            raise ValueError(
                f"gates (B, {self.num_experts}) of floating point expected, got {tuple(gates.shape)} of {gates.dtype}"
            )
        if self.num_experts == 1 and not bool((gates == 1).all()):
            raise ValueError(f"the gate of a single expert is 1, got {gates.flatten().tolist()}")
        self._slots, self.leaf, self._tokens = gates.repeat_interleave(self.r, dim=1), None, 1

    @property
    def trained(self) -> bool:
        """Whether a gradient may flow back through the gates."""
        return self._slots is not None and self._slots.requires_grad and self.num_experts > 1

    def tie(self, embeddings: Tensor) -> Tensor:
        """The model's input embeddings, unchanged; from here on the layers see the leaf."""
        assert self._slots is not None  # the caller asked whether they are trained
        if self.leaf is None:
            self.leaf = self._slots.detach().requires_grad_()
        tied: Tensor = _Tie.apply(embeddings, self._slots, self)
        return tied

    def slots(self, inputs: Tensor) -> Tensor | None:
        """Slots (B, P * r) for a layer's input (B, ..., d) or, flattened, (B * T, d); None for a single expert.

        Raises:
            RuntimeError: gates were never set.
            ValueError: gates of another number of samples.
        """
        if self.num_experts == 1:
            return None
        if self._slots is None:
            raise RuntimeError("the experts have no gates: call set_gates(route(...)) before the model runs")
        if self.checkpointed and self.leaf is None and self.trained and torch.is_grad_enabled():
            raise RuntimeError(CHANGED)
        # OPT flattens (B, T, d) between its layers: then T is that of the layers before.
        flattened = inputs.dim() == 2
        if not flattened:
            self._tokens = inputs.shape[1:-1].numel()
        samples, rows = len(self._slots), len(inputs)
        if rows != (samples * self._tokens if flattened else samples):
            raise ValueError(
                f"gates were set for {samples} samples, but a layer's input is {tuple(inputs.shape)} "
                "(beam search and several returned sequences repeat every sample: repeat its gates as often)"
            )
        return self._slots if self.leaf is None else self.leaf


class _Tie(torch.autograd.Function):
    """Identity on the embeddings; in the backward pass, gives the router what the leaf of its gates has collected."""

    @staticmethod
    def forward(ctx: Any, embeddings: Tensor, slots: Tensor, gates: Gates) -> Tensor:
        ctx.gates, ctx.leaf = gates, gates.leaf
        return embeddings.view_as(embeddings)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        if ctx.gates.leaf is not ctx.leaf:
            raise RuntimeError(CHANGED)
        collected, ctx.leaf.grad = ctx.leaf.grad, None
        return gradient, collected, None


class _GatedLowRank(torch.autograd.Function):
    """result + B (slots * (A x)), keeping for the backward pass no more than x as it came and A x.

    x is what neighbouring layers (query, key, value) share, so it is kept once for all of them, and not in the
    precision of the experts.
    """

    @staticmethod
    def forward(
        ctx: Any, result: Tensor, x: Tensor, a: Tensor, b: Tensor, slots: Tensor | None, dtype: torch.dtype
    ) -> Tensor:
        hidden = x.reshape(-1, x.shape[-1]).to(dtype) @ a.to(dtype).T
        gated = _times(hidden, slots)
        ctx.save_for_backward(x, a, b, slots, hidden)
        flat, weight = result.reshape(-1, result.shape[-1]), b.to(dtype).T
        # One pass over the result where its type allows.
        total = torch.addmm(flat, gated, weight) if flat.dtype == dtype else (flat + gated @ weight).to(flat.dtype)
        return total.view(result.shape)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, a, b, slots, hidden = ctx.saved_tensors
        dtype = hidden.dtype
        _, for_x, for_a, for_b, for_slots, _ = ctx.needs_input_grad
        flat = gradient.reshape(-1, gradient.shape[-1]).to(dtype)
        of_b = (flat.T @ _times(hidden, slots)).to(b.dtype) if for_b else None
        if not (for_x or for_a or for_slots):
            return gradient, None, None, of_b, None, None
        of_gated = flat @ b.to(dtype)
        of_slots = (of_gated * hidden).view(len(slots), -1, len(a)).sum(1).to(slots.dtype) if for_slots else None
        of_hidden = _times(of_gated, slots)
        of_a = (of_hidden.T @ x.reshape(-1, x.shape[-1]).to(dtype)).to(a.dtype) if for_a else None
        of_x = (of_hidden @ a.to(dtype)).to(x.dtype).view(x.shape) if for_x else None
        return gradient, of_x, of_a, of_b, of_slots, None


def _times(hidden: Tensor, slots: Tensor | None) -> Tensor:
    """(B * T, R) times slots (B, R), each row by those of its sample."""
    if slots is None:
        return hidden
    return (hidden.view(len(slots), -1, hidden.shape[-1]) * slots.to(hidden.dtype)[:, None]).view(hidden.shape)


class M3OELayer(nn.Module, BaseTunerLayer):  # type: ignore[misc]
    """y = W x + sum_p alpha_p B_p A_p x (arXiv 2408.10276, step 3), computed as one low-rank product.

    A stacks the experts' A_p (P * r, in), B their B_p (out, P * r), and every rank slot is weighted by the gate of its
    expert. The scale is 1; A is drawn Kaiming-uniformly (a = sqrt 5), B starts at 0.

    Args:
        base_layer: the frozen layer.
        adapter_name: peft's name for the adapter.
        config: its settings.
        gates: shared by all layers of the model.
        in_features: width of the layer's input.
        out_features: width of its output.
    """

    adapter_layer_names = ("m3oe_A", "m3oe_B")
    active_adapters: list[str]

    def __init__(
        self,
        base_layer: nn.Module,
        adapter_name: str,
        config: M3OEConfig,
        gates: Gates,
        in_features: int,
        out_features: int,
    ) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.in_features, self.out_features = in_features, out_features
        self.gates, self.dropout = gates, config.dropout
        self.merged_adapters: list[str] = []
        rank = config.num_experts * config.r
        a = torch.empty(rank, in_features)
        nn.init.kaiming_uniform_(a, a=math.sqrt(5))  # by the input's width alone: the same as expert by expert
        self.m3oe_A = nn.ParameterDict({adapter_name: nn.Parameter(a)})
        self.m3oe_B = nn.ParameterDict({adapter_name: nn.Parameter(torch.zeros(out_features, rank))})
        BaseTunerLayer._move_adapter_to_device_of_base_layer(self, adapter_name)
        BaseTunerLayer.set_adapter(self, [adapter_name])

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(B, ..., in) or (B * T, in) -> (B, ..., out) or (B * T, out), in the base layer's precision.

        The experts compute in their own precision (single, unless the caller chose otherwise), or in autocast's.
        """
        result: Tensor = self.base_layer(x, *args, **kwargs)
        name = next((name for name in self.active_adapters if name in self.m3oe_A), None)
        if self.disable_adapters or name is None:
            return result
        slots = self.gates.slots(x)
        a, b = self.m3oe_A[name], self.m3oe_B[name]
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else a.dtype
        if self.dropout and self.training:
            x = nn.functional.dropout(x, self.dropout)
        adapted: Tensor = _GatedLowRank.apply(result, x, a, b, slots, dtype)
        return adapted

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refused.

        Raises:
            ValueError: always.
        """
        raise ValueError(UNMERGEABLE)
