"""Foundation models from a local folder: pinned, strict, and clear about what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from consilia.core.errors import CheckpointError, ConfigError
from consilia.data.allowed import FoundationFolder
from consilia.models.foundation import foundation_digest, load_foundation
from tests.models.support import SMALL_SAM, SMALL_VIT, small_sam, small_vit

NONE = f"sha256:{'0' * 64}"


def folder(
    place: Path, model: Any, config: dict[str, Any], state: dict[str, torch.Tensor] | None = None
) -> FoundationFolder:
    place.mkdir()
    (place / "config.json").write_text(json.dumps(config))
    kept = {name: tensor.clone() for name, tensor in (state or model.state_dict()).items()}
    save_file(kept, place / "model.safetensors")
    return FoundationFolder(folder=place, digest=foundation_digest(place))


def test_a_vit_comes_back_as_it_was_saved_and_without_its_head(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = small_vit()
    # As published: with a classifier, which is not used here.
    state = {**model.state_dict(), "head.weight": torch.zeros(1000, 24), "head.bias": torch.zeros(1000)}
    place = folder(tmp_path / "vit", model, SMALL_VIT, state)
    loaded = load_foundation("mine", place.digest, {"mine": place})
    assert not loaded.training
    assert {n: t.tolist() for n, t in loaded.state_dict().items()} == {
        n: t.tolist() for n, t in model.state_dict().items()
    }


def test_a_sam_comes_back_also_where_its_shared_constant_is_stored_once(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = small_sam()
    state = {n: t for n, t in model.state_dict().items() if n != "prompt_encoder.shared_embedding.positional_embedding"}
    place = folder(tmp_path / "sam", model, SMALL_SAM, state)
    loaded = load_foundation("mine", None, {"mine": place})
    for name, tensor in state.items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    shared = "shared_image_embedding.positional_embedding"
    assert torch.equal(loaded.prompt_encoder.shared_embedding.positional_embedding, state[shared])


def test_absent_different_and_unfit_models_are_named(tmp_path: Path) -> None:
    place = folder(tmp_path / "vit", small_vit(), SMALL_VIT)
    with pytest.raises(ConfigError, match=r"no foundation model 'vit-b' here.*\['mine'\].*consilia-vit"):
        load_foundation("vit-b", None, {"mine": place})
    with pytest.raises(ConfigError, match=f"the run wants digest {NONE}, here it is {place.digest}"):
        load_foundation("mine", NONE, {"mine": place})
    with pytest.raises(CheckpointError, match=rf"vit: expected {NONE}, got {place.digest}"):
        load_foundation("mine", None, {"mine": place.model_copy(update={"digest": NONE})})
    with pytest.raises(CheckpointError, match=r"nowhere/model.safetensors: no such file"):
        load_foundation("mine", None, {"mine": place.model_copy(update={"folder": tmp_path / "nowhere"})})
    unfit = folder(
        tmp_path / "unfit", small_vit(), {**SMALL_VIT, "model_args": {**SMALL_VIT["model_args"], "depth": 3}}
    )
    with pytest.raises(CheckpointError, match=r"(?s)unfit/model.safetensors: does not fit config.json.*blocks\.2"):
        load_foundation("mine", None, {"mine": unfit})
    other = folder(tmp_path / "other", small_vit(), {"model_type": "bert"})
    with pytest.raises(CheckpointError, match="names neither a timm architecture nor model_type sam"):
        load_foundation("mine", None, {"mine": other})


def test_the_digest_covers_the_description_too(tmp_path: Path) -> None:
    """The same weights with another number of heads are another model; another order of keys is not."""
    place = folder(tmp_path / "vit", small_vit(), SMALL_VIT)
    described = place.folder / "config.json"
    described.write_text(json.dumps(dict(reversed(SMALL_VIT.items())), indent=2))
    assert foundation_digest(place.folder) == place.digest
    described.write_text(json.dumps({**SMALL_VIT, "model_args": {**SMALL_VIT["model_args"], "num_heads": 6}}))
    with pytest.raises(CheckpointError, match=rf"vit: expected {place.digest}, got sha256:"):
        load_foundation("mine", None, {"mine": place})


@pytest.mark.parametrize("text", ["[]", '"x"', '{"architecture": 5}', '{"architecture": "hf-hub:a/b"}', "{"])
def test_a_description_that_is_none(tmp_path: Path, text: str) -> None:
    place = folder(tmp_path / "vit", small_vit(), SMALL_VIT)
    (place.folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"vit"):
        load_foundation(
            "mine",
            None,
            {"mine": place.model_copy(update={"digest": foundation_digest(place.folder) if text != "{" else NONE})},
        )
