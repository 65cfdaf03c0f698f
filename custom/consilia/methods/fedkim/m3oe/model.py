"""M3OE's tuner: puts experts into a language model's linear layers and holds their router."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from consilia.methods.fedkim.m3oe.config import M3OEConfig
from consilia.methods.fedkim.m3oe.layer import UNMERGEABLE, Gates, M3OELayer
from consilia.methods.fedkim.router import ExpertRouter


class M3OEModel(BaseTuner):  # type: ignore[misc]
    """A frozen language model whose linear layers carry P low-rank experts each, and the router that weighs them.

    Made by ``peft.get_peft_model(language_model, M3OEConfig(...))``, as its ``base_model``. Before the model runs:
    ``set_gates(route(...))``. One adapter per model; it cannot be merged.
    """

    prefix = "m3oe_"
    tuner_layer_cls = M3OELayer
    uses_shared_state = True
    model: Any
    gates: Gates
    m3oe_router: ExpertRouter  # for more than one expert
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012  # peft's own spelling

    def route(self, modality: Tensor, modality_mask: Tensor, task: Tensor, task_mask: Tensor) -> Tensor:
        """Gates (B, P) from the descriptions' token embeddings; see :class:`ExpertRouter`. Ones for one expert."""
        if self.gates.num_experts == 1:
            return modality.new_ones(len(modality), 1)
        gates: Tensor = self.m3oe_router(modality, modality_mask, task, task_mask)
        return gates

    def set_gates(self, gates: Tensor) -> None:
        """Weigh the experts of all layers by these gates (B, P), one row per sample, until others are set.

        A gradient flows back through them to where they come from. With gradient checkpointing they must still be the
        same when the backward pass runs. A single expert needs no gates.

        Raises:
            ValueError: gates of a wrong shape or type, or other than 1 for a single expert.
        """
        self.gates.set(gates)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the language model returns.

        Raises:
            RuntimeError: gates were never set.
            ValueError: gates of another number of samples.
        """
        gates = self.gates
        if torch.is_grad_enabled() and gates.trained:
            gates.checkpointed = any(
                getattr(module, "gradient_checkpointing", False) for module in self.model.modules()
            )
            if gates.checkpointed or gates.leaf is not None:
                kwargs = self._tied(kwargs)
        return self.model(*args, **kwargs)

    def _tied(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Arguments whose input embeddings are tied to the gates (see :class:`Gates`)."""
        embeddings = kwargs.get("inputs_embeds")
        if embeddings is None:
            ids = kwargs.get("input_ids")
            if ids is None:
                raise ValueError("with gradient checkpointing, input_ids or inputs_embeds must be given by name")
            embeddings = self.model.get_input_embeddings()(ids)
        return {**kwargs, "input_ids": None, "inputs_embeds": self.gates.tie(embeddings)}

    def _pre_injection_hook(self, model: Any, config: PeftConfig, adapter_name: str) -> None:
        """The router and the shared gates, before the layers that use them."""
        assert isinstance(config, M3OEConfig)  # peft looks the tuner up by the type of the settings
        self.gates = Gates(config.num_experts, config.r)
        if config.num_experts == 1:
            return
        assert config.embedding_dim is not None  # checked by the settings
        embeddings = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
        width = getattr(embeddings, "embedding_dim", config.embedding_dim)
        if width != config.embedding_dim:
            raise ValueError(f"embedding_dim is {config.embedding_dim}, the model's embeddings are {width} wide")
        self.m3oe_router = ExpertRouter(config.embedding_dim, config.num_experts)
        self._move_adapter_to_device_of_base_layer(adapter_name)

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        """The router to the model's device; peft calls it by this name after loading onto empty parameters."""
        router = getattr(self, "m3oe_router", None)
        if router is not None and not any(parameter.is_meta for parameter in router.parameters()):
            router.to(device or next(self.model.parameters()).device)

    def _create_and_replace(
        self,
        peft_config: PeftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if isinstance(target, nn.Linear):
            sizes = target.in_features, target.out_features
        elif isinstance(target, Conv1D):  # GPT-2's linear layer, its weight transposed
            sizes = target.weight.shape[0], target.weight.shape[1]
        else:
            raise ValueError(f"{current_key}: M3OE adapts linear layers, this is a {type(target).__name__}")
        assert isinstance(peft_config, M3OEConfig)  # as above
        layer = M3OELayer(target, adapter_name, peft_config, self.gates, *sizes)
        self._replace_module(parent, target_name, layer, target)

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        """Train the experts and the router, or in inference mode neither."""
        super().set_adapter(adapter_name, inference_mode=inference_mode)
        self._train_router(not inference_mode)

    def set_requires_grad(self, adapter_names: str | Sequence[str], requires_grad: bool = True) -> None:
        """Train the experts and the router, or neither."""
        super().set_requires_grad(adapter_names, requires_grad)
        self._train_router(requires_grad)

    def _train_router(self, trained: bool) -> None:
        if self.gates.num_experts > 1:
            self.m3oe_router.requires_grad_(trained)

    def _check_new_adapter_config(self, config: PeftConfig) -> None:
        if len(self.peft_config) > 1:
            raise ValueError(f"a model takes one M3OE adapter, got {sorted(self.peft_config)}")

    def _check_merge_allowed(self) -> None:
        raise ValueError(UNMERGEABLE)
