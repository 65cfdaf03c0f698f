"""The safetensors persistor."""

from __future__ import annotations

import pytest
import torch
import yaml
from nvflare.app_common.abstract.model import ModelLearnableKey, make_model_learnable
from safetensors.torch import load_file

from consilia.core.determinism import state_digest
from consilia.core.errors import ConfigError
from consilia.flare.persistor import FILE, SafetensorsPersistor
from tests.federation.support import initial_state, small
from tests.flare.support import participant, start

ARGS = {"in_features": 30, "num_classes": 2, "hidden": [8]}


def test_the_initial_model_is_that_of_the_seed(tmp_path) -> None:
    _, context = participant(tmp_path, "server")
    for seed in (0, 7):
        persistor = start(SafetensorsPersistor(small(seed=seed).to_json()), context)
        weights = persistor.load_model(context)[ModelLearnableKey.WEIGHTS]
        assert state_digest(weights) == state_digest(initial_state(small(seed=seed)))


def test_saves_without_pickle(tmp_path) -> None:
    kit, context = participant(tmp_path, "server")
    persistor = start(SafetensorsPersistor(small().to_json()), context)
    weights = {"w": torch.arange(4.0), "half": torch.ones(2, dtype=torch.bfloat16)}
    persistor.save_model(make_model_learnable(weights, {}), context)
    (saved,) = kit.rglob(FILE)
    assert state_digest(load_file(saved)) == state_digest(weights)


def test_the_server_lists_its_model_classes_too(tmp_path) -> None:
    kit, context = participant(tmp_path, "server")
    with pytest.raises(ConfigError, match=r"'os\.system' is not listed"):
        start(SafetensorsPersistor(small(model={"class": "os.system"}).to_json()), context).load_model(context)
    (kit / "local" / "server.yaml").write_text(yaml.safe_dump({"allow_models": ["consilia.models.cnn.*"]}))
    with pytest.raises(ConfigError, match="not listed here"):
        start(SafetensorsPersistor(small().to_json()), context).load_model(context)
