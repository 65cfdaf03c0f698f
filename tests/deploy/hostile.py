"""What a hostile administrator puts into the ``local/custom/`` of his own site's kit: a filter that bends its answers.

He needs nothing but what NVFlare gives every site: task result filters of his own, named in his ``privacy.json``.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import torch
from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.filter import Filter
from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.app_common.abstract.fl_model import MetaKey
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.utils.fl_model_utils import FLModelUtils

from consilia.flare.messages import CONTENT, ERROR, model_to_reply
from tests.federation.attacks import ATTACKS

HONEST = "honest"
MEGABYTES = 200


class Bent(Filter):
    """Replaces what this site sends.

    Args:
        attacks: on the result of each training, in order; after the last one the site is honest.
        leak: whether tensors go with every other answer.
    """

    def __init__(self, attacks: list[str], leak: bool = False) -> None:
        super().__init__()
        self.attacks, self.leak = attacks, leak
        self.trained = 0
        self.first: Shareable | None = None
        self.sent: Shareable | None = None

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        task = fl_ctx.get_prop(FLContextKey.TASK_NAME)
        if task in ("personalize", "evaluate") and self.leak:
            return with_dxo(shareable, data={"w": torch.ones(2)})
        if task != "train":
            return shareable
        attack = self.attacks[self.trained] if self.trained < len(self.attacks) else HONEST
        self.trained += 1
        earlier, self.sent = self.sent, shareable
        if self.first is None:
            self.first = copy.deepcopy(shareable)
        if attack == "the first round's bytes":
            return self.first
        if attack == "the last message again":
            fl_ctx.get_engine().send_task_result(earlier, fl_ctx, timeout=10)
            return shareable
        return WIRE[attack](shareable) if attack in WIRE else as_reply(shareable, attack)


def as_reply(shareable: Shareable, attack: str) -> Shareable:
    """One of the attacks that need no network."""
    reply = ATTACKS[attack][0](model_to_reply(FLModelUtils.from_shareable(shareable)))
    return with_dxo(shareable, data=dict(reply.tensors), meta={CONTENT: reply.content, ERROR: reply.error or ""})


def with_dxo(shareable: Shareable, kind: str = DataKind.WEIGHTS, **changes: Any) -> Shareable:
    dxo = from_shareable(shareable)
    result: Shareable = DXO(kind, **{"data": dxo.data, "meta": dxo.meta, **changes}).to_shareable()
    return result


def with_data(change: Callable[[dict[str, Any]], Any]) -> Callable[[Shareable], Shareable]:
    return lambda shareable: with_dxo(shareable, data=change(dict(from_shareable(shareable).data)))


def with_meta(**changes: Any) -> Callable[[Shareable], Shareable]:
    return lambda shareable: with_dxo(shareable, meta={**from_shareable(shareable).meta, **changes})


def with_header(key: str, value: Any) -> Callable[[Shareable], Shareable]:
    def change(shareable: Shareable) -> Shareable:
        result = with_dxo(shareable)
        result.set_header(key, value)
        return result

    return change


def with_list(shareable: Shareable) -> Shareable:
    result = with_dxo(shareable)
    # A DXO would not let it pass.
    result["DXO"]["data"] = list(result["DXO"]["data"].values())
    return result


def poisoned(shareable: Shareable) -> Shareable:
    """The model turned round, and FedKPer's score at its largest: each by itself within all bounds."""
    content = json.loads(from_shareable(shareable).meta[CONTENT])
    turned = with_data(lambda tensors: {name: -tensor for name, tensor in tensors.items()})(shareable)
    return with_meta(**{CONTENT: json.dumps({**content, "weight": 1.0})})(turned)


class Unknown:
    """A class that nobody else has."""

    def __init__(self) -> None:
        self.payload = "x"


WIRE: dict[str, Callable[[Shareable], Shareable]] = {
    HONEST: lambda shareable: shareable,
    "poison": poisoned,
    # Read by the server as this site's own honest answer.
    "another's name": with_meta(client_name="hospital-1", props={}, **{MetaKey.SITE_NAME: "hospital-1"}),
    "another's name in the header": with_header(MetaKey.SITE_NAME, "hospital-1"),
    # Refused.
    "oversized": with_data(lambda tensors: tensors | {"ballast": torch.ones(MEGABYTES * 2**18)}),
    "metrics for tensors": lambda shareable: with_dxo(shareable, DataKind.METRICS, data={"accuracy": 1.0}),
    "a list for tensors": with_list,
    "tensors within tensors": with_data(lambda tensors: {"layers": tensors}),
    "a number for content": with_meta(**{CONTENT: 3}),
    "no content": with_meta(**{CONTENT: ""}),
    "no model": lambda shareable: Shareable(),
    "a round that is none": with_header(AppConstants.CURRENT_ROUND, "two"),
    "a return code": lambda shareable: make_reply(ReturnCode.EXECUTION_EXCEPTION),
    # Ends the job.
    "parameter": with_data(lambda tensors: {name: torch.nn.Parameter(value) for name, value in tensors.items()}),
    "unknown class": with_meta(x=Unknown()),
    "fatal code": lambda shareable: make_reply(ReturnCode.TASK_UNKNOWN),
}
