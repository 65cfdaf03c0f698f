"""Foundation models: two small ones that ship with the package, and real ones from a local folder pinned by SHA-256.

A folder holds ``config.json`` and ``model.safetensors``, as Hugging Face's hub lays them out for timm's vision
transformers and for transformers' SAM. Nothing is downloaded, and no pickle is read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import Field
from safetensors.torch import load_file
from torch import nn

from consilia.core.errors import CheckpointError, ConfigError
from consilia.core.files import sha256_of_file
from consilia.data.yaml_file import AbsolutePath, Model
from consilia.models.torchvision_shim import ensure_torchvision

EMBEDDED_FOLDER = Path(__file__).parent / "embedded"
EMBEDDED = ("consilia-sam", "consilia-vit")
DIGEST = r"^sha256:[0-9a-f]{64}$"
"""How a digest is written. Without the prefix NVFlare takes a job's 64 hexadecimal digits for a leaked secret."""

WEIGHTS, DESCRIPTION = "model.safetensors", "config.json"


class FoundationFolder(Model):
    """Where a participant keeps a foundation model, and its :func:`foundation_digest`."""

    folder: AbsolutePath
    digest: str = Field(pattern=DIGEST)


@cache
def embedded_digest(name: str) -> str:
    """Digest of an embedded model. Raises :class:`ConfigError` for an unknown name."""
    if name not in EMBEDDED:
        raise ConfigError(f"no foundation model {name!r} ships with Consilia; there are {list(EMBEDDED)}")
    return foundation_digest(EMBEDDED_FOLDER / name)


def foundation_digest(folder: Path) -> str:
    """SHA-256 of a foundation model's description and weights, as ``sha256:<64 hexadecimal digits>``.

    Of the description (its JSON with sorted keys, then a line break) and the hexadecimal SHA-256 of the weights' file:
    the same weights with another number of heads, say, are another model.

    Raises:
        CheckpointError: a file is missing, or the description is not JSON.
    """
    weights, description = folder / WEIGHTS, folder / DESCRIPTION
    for file in (weights, description):
        if not file.is_file():
            raise CheckpointError(
                f"{file}: no such file; a foundation model's folder holds {DESCRIPTION} and {WEIGHTS}"
            )
    try:
        described = json.dumps(json.loads(description.read_text(encoding="utf-8")), sort_keys=True)
    except ValueError as error:
        raise CheckpointError(f"{description}: expected JSON: {error}") from error
    text = f"{described}\n{sha256_of_file(weights)}"
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def load_foundation(name: str, digest: str | None, folders: Mapping[str, FoundationFolder]) -> nn.Module:
    """The model of that name, with its weights.

    Args:
        name: an embedded model, or one that this participant lists under ``foundation_models``.
        digest: as the job pins it; None leaves the choice to this participant.
        folders: ``foundation_models`` of this participant's site.yaml (or server.yaml).

    Raises:
        ConfigError: the participant has no such model, or the job pins another.
        CheckpointError: the folder is incomplete, is not the one listed, or its weights do not fit its config.json.
    """
    if name in EMBEDDED:
        place = FoundationFolder(folder=EMBEDDED_FOLDER / name, digest=embedded_digest(name))
    elif name in folders:
        place = folders[name]
    else:
        raise ConfigError(
            f"no foundation model {name!r} here: foundation_models in this participant's site.yaml (at the server: "
            f"server.yaml) has {sorted(folders)}, and {list(EMBEDDED)} ship with Consilia"
        )
    if digest is not None and digest != place.digest:
        raise ConfigError(f"foundation model {name!r}: the run wants digest {digest}, here it is {place.digest}")
    return read_foundation(place)


def read_foundation(place: FoundationFolder) -> nn.Module:
    """Build the model in a folder and load its weights. Raises :class:`CheckpointError` as above."""
    found = foundation_digest(place.folder)
    if found != place.digest:
        raise CheckpointError(f"{place.folder}: expected {place.digest}, got {found}")
    weights, description = place.folder / WEIGHTS, place.folder / DESCRIPTION
    try:
        config = json.loads(description.read_text(encoding="utf-8"))
        model = empty_foundation(config)
        state = load_file(weights)
    # Two libraries build from whatever stands in the file, and each has errors of its own for it.
    except Exception as error:
        raise CheckpointError(f"{place.folder}: cannot be read as a foundation model: {error}") from error
    _fill(model, state, weights)
    return model.eval()


def empty_foundation(config: Mapping[str, Any]) -> nn.Module:
    """The model that a config.json describes, with fresh weights: timm's by ``architecture``, or transformers' SAM.

    Raises:
        ValueError: it describes neither.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    ensure_torchvision()
    if config.get("model_type") == "sam":
        from transformers import SamConfig, SamModel

        sam: nn.Module = SamModel(SamConfig.from_dict(dict(config)))
        return sam
    if isinstance(config.get("architecture"), str) and config["architecture"].isidentifier():
        import timm

        arguments = {"num_classes": 0, **config.get("model_args", {})}
        model: nn.Module = timm.create_model(config["architecture"], pretrained=False, **arguments)
        return model
    raise ValueError(f"config.json names neither a timm architecture nor model_type sam, it has {sorted(config)}")


def _fill(model: nn.Module, state: Mapping[str, Any], weights: Path) -> None:
    wanted = model.state_dict()
    # The classifier of a published ViT is not used; SAM's files hold its shared constants under one of their two names.
    shared = {"prompt_encoder.shared_embedding.positional_embedding": "shared_image_embedding.positional_embedding"}
    state = {name: tensor for name, tensor in state.items() if name in wanted or not name.startswith("head.")}
    for name, twin in shared.items():
        for here, there in ((name, twin), (twin, name)):
            if here in wanted and here not in state and there in state:
                state[here] = state[there]
    try:
        model.load_state_dict(dict(state))
    except RuntimeError as error:
        raise CheckpointError(f"{weights}: does not fit {DESCRIPTION}: {error}") from error
