"""What a method declares is looked at before anything is sent: each mistake is named, with what was expected."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from consilia.core.errors import ConfigError
from consilia.methods import Method, MethodConfig, ReplyField, TensorSpec
from consilia.methods.contract import TRAIN_LOSS, declared_fields, transmitted

MODEL = nn.Linear(2, 1)
SPEC = TensorSpec((2,))


class Declared(Method[MethodConfig]):
    """Declares what a test says."""

    name = "declared"

    def __init__(self, **declared: Any) -> None:
        super().__init__(MethodConfig(method="declared"))
        self.declared = declared

    def exchanged(self, model: nn.Module) -> list[str]:
        return self.declared.get("exchanged", ["weight", "bias"])  # type: ignore[no-any-return]

    def extras(self, model: nn.Module) -> dict[str, TensorSpec]:
        return self.declared.get("extras", {})  # type: ignore[no-any-return]

    def payload(self, model: nn.Module) -> dict[str, TensorSpec]:
        return self.declared.get("payload", {})  # type: ignore[no-any-return]

    def fields(self) -> tuple[ReplyField, ...]:
        return self.declared.get("fields", ())  # type: ignore[no-any-return]


def test_what_is_declared_is_what_is_sent() -> None:
    found = transmitted(Declared(extras={"delta": SPEC}, payload={"control": SPEC}), MODEL)
    assert {name: spec.shape for name, spec in found.items()} == {"weight": (1, 2), "bias": (1,), "delta": (2,)}


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"exchanged": ["weight", "head"]}, "exchanges 'head', which Linear does not have"),
        ({"exchanged": []}, "exchanges nothing of Linear: expected one of its tensors at least"),
        ({"exchanged": None}, r"exchanged\(model\) gives None, expected a list of names"),
        ({"exchanged": "weight"}, r"exchanged\(model\) gives 'weight', expected a list of names"),
        ({"extras": ["delta"]}, r"extras\(model\) gives list, expected a dict of TensorSpec by name"),
        ({"extras": {"delta": torch.zeros(2)}}, "gives a Tensor for 'delta', expected a TensorSpec"),
        ({"extras": {"a\nb": SPEC}}, r"has the name 'a\\nb', expected letters"),
        ({"extras": {"weight": SPEC}}, r"extras\(model\) has the name 'weight', which a tensor of the model has"),
        ({"payload": {"bias": SPEC}}, r"payload\(model\) has the name 'bias', which a tensor of the model has"),
    ],
)
def test_tensors_declared_amiss_are_named(declared: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"method declared.*{message}"):
        transmitted(Declared(**declared), MODEL)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ((ReplyField("heat", "a"), ReplyField("heat", "b")), "declares the field heat twice"),
        ((TRAIN_LOSS,), "declares the field train_loss twice, or as every method does"),
        ((("heat", "a"),), r"declares the field \('heat', 'a'\), expected a consilia.methods.ReplyField"),
    ],
)
def test_fields_declared_amiss_are_named(fields: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        declared_fields(Declared(fields=fields))


def test_a_field_has_a_name_for_every_place_and_bounds_to_keep_to() -> None:
    assert list(declared_fields(Declared(fields=(ReplyField("heat", "a"),)))) == ["train_loss", "heat"]
    with pytest.raises(ConfigError, match=r"the name 'site\.heat', expected letters, digits and underscores"):
        ReplyField("site.heat", "a")
    with pytest.raises(ConfigError, match=r"heat has the bounds \[1\.0, inf\], expected finite ones"):
        ReplyField("heat", "a", 1.0, float("inf"))
