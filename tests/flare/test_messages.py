"""Tasks and replies through NVFlare's own serialisation."""

from __future__ import annotations

import pytest
import torch
from nvflare.apis.shareable import Shareable
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.fuel.utils import fobs
from torch import nn

from consilia.federation.messages import Broadcast, Reply, Request
from consilia.flare.messages import (
    CONTENT,
    broadcast_to_model,
    model_to_reply,
    plain_tensors,
    register_tensors,
    reply_to_dxo,
)

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool]


def over_the_wire(shareable: Shareable) -> Shareable:
    """NVFlare's serialiser and back, in one process: small tensors travel inside the message."""
    register_tensors()
    return fobs.loads(fobs.dumps(shareable))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_reply_arrives_as_it_was_sent(dtype: torch.dtype) -> None:
    tensors = {"w": torch.arange(6).reshape(2, 3).to(dtype), "n": torch.tensor(1).to(dtype)}
    sent = Reply('{"a": 1}', tensors)
    got = model_to_reply(FLModelUtils.from_shareable(over_the_wire(reply_to_dxo(sent).to_shareable())))
    assert (got.content, got.error) == (sent.content, None)
    for name, tensor in tensors.items():
        assert got.tensors[name].dtype == dtype
        assert torch.equal(got.tensors[name], tensor)


def test_an_error_travels_by_its_name_alone() -> None:
    got = model_to_reply(
        FLModelUtils.from_shareable(over_the_wire(reply_to_dxo(Reply(error="DataError")).to_shareable()))
    )
    assert got == Reply(error="DataError")


def test_a_task_without_tensors_travels_too() -> None:
    task = Broadcast(Request(kind="prepare", resume=True), ["a"])
    model = FLModelUtils.from_shareable(over_the_wire(FLModelUtils.to_shareable(broadcast_to_model(task))))
    assert Request.model_validate_json(model.meta[CONTENT]) == task.request
    assert model.params == {}


def test_this_process_still_packs_as_nvflare_s_own_do() -> None:
    # In any other form, the server's answers would be empty here: a session in this process could not log in.
    register_tensors()
    assert b"DictDecomposer" in fobs.dumps(Shareable())
    assert over_the_wire(Shareable({"nonce": "abc"}))["nonce"] == "abc"


def test_what_would_end_the_receiving_process_is_made_plain() -> None:
    layer = nn.Linear(3, 2)
    plain = plain_tensors({"weight": layer.weight, "view": layer.weight.detach().t()})
    assert all(type(tensor) is torch.Tensor for tensor in plain.values())
    assert all(tensor.is_contiguous() and not tensor.requires_grad for tensor in plain.values())


@pytest.mark.parametrize(
    "model",
    [
        FLModel(params={"w": torch.ones(1)}, meta={CONTENT: 5}),
        FLModel(params={"w": torch.ones(1)}, meta={CONTENT: "{}", "consilia_error": ["x"]}),
    ],
)
def test_malformed_replies_become_errors(model: FLModel) -> None:
    assert model_to_reply(model).error == "MalformedReply"


def test_what_is_no_tensor_is_left_for_the_check_to_refuse() -> None:
    got = model_to_reply(FLModel(params={"w": "text", 3: [1.0]}, meta={CONTENT: "{}"}))
    assert got.tensors["w"] == "text"
    assert torch.equal(got.tensors["3"], torch.tensor([1.0]))
