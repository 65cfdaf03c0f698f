"""The keys of a configuration as they are listed, and what a mistyped one was meant to be."""

from __future__ import annotations

import pytest

from consilia.core.errors import ConfigError
from consilia.federation.config import RunConfig, run_config
from consilia.federation.config_keys import Key, config_keys
from consilia.methods.registry import BUILT_IN

MODEL = {"class": "consilia.models.mlp.MLP", "args": {"in_features": 4, "num_classes": 2}}


def key_of(method: str, name: str) -> Key:
    return next(key for key in config_keys(RunConfig, method) if key.name == name)


@pytest.mark.parametrize("method", BUILT_IN)
def test_every_key_of_every_method_has_type_default_and_meaning(method: str) -> None:
    """trials A 20: there was no list of configuration keys."""
    keys = config_keys(RunConfig, method)
    assert len({key.name for key in keys}) == len(keys) > 35
    assert [key.name for key in keys if not key.meaning or not key.type] == []
    # What must be given: the network, and of a pre-trained one its name.
    assert [key.name for key in keys if not key.default] == ["model.class", "model.foundation.model"]


@pytest.mark.parametrize("method", BUILT_IN)
def test_a_default_in_the_list_is_what_a_run_takes(method: str) -> None:
    values = {"method": method, "model": MODEL}
    refused = ("training.momentum", "training.weight_decay") if method == "scaffold" else ()
    config = run_config(values, [f"{key}=0" for key in refused]).to_json()
    for key in config_keys(RunConfig, method):
        found = config
        for part in key.name.split("."):
            found = found[part] if isinstance(found, dict) and part in found else None
        if key.name.startswith(("model.", "label", "training.augmentation.")) or key.default.endswith("..."):
            continue  # Filled in by the run, or too long to be shown whole.
        if key.name in refused:
            continue  # The mathematics of this method rule the default out.
        if key.name.startswith("method.language_model.digest"):
            continue  # An embedded model's is filled in.
        shown = key.default
        again = run_config(values, [*(f"{key}=0" for key in refused), f"{key.name}={shown}"]).to_json()
        assert again == config, key


def test_types_have_their_bounds() -> None:
    assert key_of("fedkper", "method.temperature").type == "number > 0"
    assert key_of("fedkper", "participation").type == "number > 0 <= 1"
    assert key_of("fedkper", "max_update_norm").type == "number > 0 or auto or null"
    assert key_of("fedkper", "training.optimiser").type == "sgd or adam or adamw"
    assert key_of("fedkper", "training.augmentation.flip").type == "list of horizontal or vertical"
    assert key_of("fedkim", "method.language_model.model").default == "consilia-lm"


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("batch_size=3", "training.batch_size"),
        ("trainin.batch_size=3", "training.batch_size"),
        ("training.lerning_rate=3", "training.learning_rate"),
        ("epochs=3", "training.local_epochs"),
        ("method.max_kd_weightp=3", "method.max_kd_weight"),
        ("training.augmentation.flp=[]", "training.augmentation.flip"),
        ("round=3", "rounds"),
    ],
)
def test_an_override_of_an_unknown_key_is_answered_with_the_nearest_one(override: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"--set {override.split('=')[0]}.*: unknown key; did you mean '{meant}'"):
        run_config({"method": "fedkper", "model": MODEL}, [override])


def test_a_key_that_is_like_none_is_answered_with_those_beside_it() -> None:
    with pytest.raises(ConfigError, match=r"expected one of method\.method, method\.mu \("):
        run_config({"method": "fedprox", "model": MODEL}, ["method.zzz=1"])
    assert run_config({"method": "fedprox", "model": MODEL}, ["model.args.hidden=[8]"]).model.args["hidden"] == [8]
