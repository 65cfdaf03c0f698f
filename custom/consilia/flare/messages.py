"""Requests and replies as NVFlare models: tensors as parameters, our JSON as one meta field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.utils.decomposers import flare_decomposers
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_opt.pt.decomposers import TensorDecomposer
from nvflare.fuel.utils import fobs
from torch import Tensor

from consilia.federation.messages import Broadcast, Reply

CONTENT, ERROR = "consilia", "consilia_error"

PROGRESS_TOPIC = "consilia.progress"
"""The app command by which an administrator asks a running job's server process for its events."""

IS_COMPLETE = "is complete: results in"
"""In the log of the server's process, when a run has come to its end and its results are written."""


def register_tensors() -> None:
    """Let this process send and receive torch tensors. Without it a client waits for ever on its first model."""
    # First NVFlare's own types, as its processes do: a Shareable that is packed before gets a form of its own, and
    # from then on this process finds nothing in those of others, and cannot log in anywhere.
    flare_decomposers.register()
    fobs.register(TensorDecomposer)


def broadcast_to_model(broadcast: Broadcast) -> FLModel:
    """A request as the server's controller sends it."""
    return FLModel(
        params_type=ParamsType.FULL,
        params=plain_tensors(broadcast.tensors or {}),
        current_round=broadcast.request.round,
        meta={CONTENT: broadcast.request.model_dump_json()},
    )


def reply_to_dxo(reply: Reply) -> DXO:
    """A reply as a site's executor sends it."""
    meta = {CONTENT: reply.content, ERROR: reply.error or ""}
    return DXO(DataKind.WEIGHTS, data=plain_tensors(reply.tensors), meta=meta)


def model_to_reply(model: FLModel) -> Reply:
    """A reply as the server received it; anything that is not of the expected type becomes an error by name."""
    content, error = model.meta.get(CONTENT, ""), model.meta.get(ERROR, "")
    params: Any = model.params or {}
    if not isinstance(content, str) or not isinstance(error, str) or not isinstance(params, dict):
        return Reply(error="MalformedReply")
    if error:
        return Reply(error=error)
    return Reply(content, {str(name): _tensor(value) for name, value in params.items()})


def plain_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Detached, contiguous CPU tensors: a Parameter or a strided view would end the receiving process."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _tensor(value: Any) -> Any:
    # A site's own filters may have turned tensors into NumPy arrays. The update's check refuses what is neither.
    try:
        return value if isinstance(value, Tensor) else torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        return value
