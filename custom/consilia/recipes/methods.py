"""One recipe per method, for those who write job.py files rather than use the command line."""

from __future__ import annotations

from typing import Any

from consilia.federation.config import run_config
from consilia.flare.recipe import ConsiliaRecipe


class _MethodRecipe(ConsiliaRecipe):
    method: str

    def __init__(
        self,
        *,
        model: str,
        model_args: dict[str, Any],
        foundation: dict[str, str] | None = None,
        method_args: dict[str, Any] | None = None,
        name: str | None = None,
        min_clients: int = 2,
        **settings: Any,
    ) -> None:
        values = {
            "method": {"method": self.method, **(method_args or {})},
            "model": {"class": model, "args": model_args, "foundation": foundation},
            **settings,
        }
        config = run_config(values, source=type(self).__name__)
        super().__init__(config, name=name, min_clients=min_clients)


class FedAvgRecipe(_MethodRecipe):
    """FedAvg, followed by local fine-tuning at every site.

    Args:
        model: dotted path of the model class, e.g. ``consilia.models.mlp.MLP``.
        model_args: its keyword arguments.
        foundation: ``{"model": name}`` of an embedded foundation model, or with the ``digest`` of one that every
            participant keeps.
        method_args: the method's own parameters (its config.py).
        name: the job's name.
        min_clients: sites that NVFlare waits for.
        **settings: any other key of :class:`~consilia.federation.config.RunConfig`.

    Raises:
        ConfigError: a value is unknown or out of range.
    """

    method = "fedavg"


class FedProxRecipe(_MethodRecipe):
    """FedProx; arguments as for :class:`FedAvgRecipe`, ``method_args={"mu": 0.1}``."""

    method = "fedprox"


class FedKPerRecipe(_MethodRecipe):
    """FedKPer; arguments as for :class:`FedAvgRecipe`, ``method_args={"max_kd_weight": 10.0}``."""

    method = "fedkper"


class FedGPLRecipe(_MethodRecipe):
    """Fed-GPL; arguments as for :class:`FedAvgRecipe`, ``foundation`` among them.

    ``model`` is :class:`~consilia.models.prompted_vit.PromptedViT`, or with ``task="segmentation"``
    :class:`~consilia.models.prompted_sam.PromptedSam`, by dotted path.
    """

    method = "fedgpl"


class FedKIMRecipe(_MethodRecipe):
    """FedKIM; arguments as for :class:`FedAvgRecipe`, ``method_args={"catalogue": "medical"}``.

    ``model`` is :class:`~consilia.models.extractor.KnowledgeExtractor` by dotted path, with its ``encoders``; its heads
    follow from the catalogue. The server needs ``data`` and the language model in its server.yaml.
    """

    method = "fedkim"
