"""Foundation models: small ones that ship with the package, and real ones from a local folder pinned by SHA-256.

A folder holds ``config.json`` and ``model.safetensors``, as Hugging Face's hub lays them out for timm's vision
transformers and for transformers' SAM. Nothing is downloaded, and no pickle is read. Language models, which may come
in several files and bring a tokenizer, are named and pinned here and read by :mod:`consilia.models.language`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from torch import nn

from consilia.core.errors import CheckpointError, ConfigError
from consilia.core.files import sha256_of_file
from consilia.core.reading import read_json
from consilia.core.tensor_files import read_tensors
from consilia.data.allowed import FoundationFolder

EMBEDDED_FOLDER = Path(__file__).parent / "embedded"
EMBEDDED = ("consilia-lm", "consilia-sam", "consilia-vit")
WEIGHTS, DESCRIPTION, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
LANGUAGE_FILES = (
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
)
"""What makes a language model what it is, beside its description; transformers reads no other file of ours."""


@cache
def embedded_digest(name: str) -> str:
    """Digest of an embedded model. Raises :class:`ConfigError` for an unknown name."""
    if name not in EMBEDDED:
        raise ConfigError(f"no foundation model {name!r} ships with Consilia; there are {list(EMBEDDED)}")
    return foundation_digest(EMBEDDED_FOLDER / name)


def foundation_digest(folder: Path) -> str:
    """SHA-256 of a foundation model's description and weights, as ``sha256:<64 hexadecimal digits>``.

    Of the description (its JSON with sorted keys, then a line break) and the hexadecimal SHA-256 of the weights' file:
    the same weights with another number of heads, say, are another model. Of a language model's folder, a line with
    name and SHA-256 stands for every file of :data:`LANGUAGE_FILES`, in the order of the names.

    Raises:
        CheckpointError: a file is missing, or the description is not JSON.
    """
    if not any(folder.glob("*.safetensors")):
        _present(folder / WEIGHTS)
    description = read_description(folder)
    described = json.dumps(description, sort_keys=True)
    if is_language_model(description):
        _present(folder / TOKENIZER)
        found = {file for pattern in LANGUAGE_FILES for file in folder.glob(pattern) if file.is_file()}
        content = "\n".join(f"{file.name} {sha256_of_file(file)}" for file in sorted(found))
    else:
        content = sha256_of_file(_present(folder / WEIGHTS))
    text = f"{described}\n{content}"
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def read_description(folder: Path) -> Any:
    """The content of a folder's config.json. Raises :class:`CheckpointError` where it is missing or not JSON."""
    return read_json(_present(folder / DESCRIPTION), error=CheckpointError)


def is_language_model(description: Any) -> bool:
    """Whether a config.json describes a causal language model of transformers."""
    classes = description.get("architectures") if isinstance(description, dict) else None
    return isinstance(classes, list) and any(str(name).endswith(("ForCausalLM", "LMHeadModel")) for name in classes)


def _present(file: Path) -> Path:
    if not file.is_file():
        raise CheckpointError(
            f"{file}: no such file; a foundation model's folder holds {DESCRIPTION} and {WEIGHTS} (no pickle is "
            f"read), a language model's also {TOKENIZER}"
        )
    return file


def load_foundation(name: str, digest: str | None, folders: Mapping[str, FoundationFolder]) -> nn.Module:
    """The model of that name, with its weights.

    Args:
        name: an embedded model, or one that this participant lists under ``foundation_models``.
        digest: as the job pins it; None leaves the choice to this participant.
        folders: ``foundation_models`` of this participant's site.yaml (or server.yaml).

    Raises:
        ConfigError: the participant has no such model, or the job pins another.
        CheckpointError: the folder is incomplete, is not the one listed, its weights do not fit its config.json, or it
            holds a language model (see :func:`consilia.models.language.load_language_model`).
    """
    return read_foundation(foundation_place(name, digest, folders))


def foundation_place(name: str, digest: str | None, folders: Mapping[str, FoundationFolder]) -> FoundationFolder:
    """Where this participant keeps the model of that name; arguments and :class:`ConfigError` as above."""
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
    return place


def verify_foundation(place: FoundationFolder) -> None:
    """Raise :class:`CheckpointError` unless the folder's digest is the one listed."""
    found = foundation_digest(place.folder)
    if found != place.digest:
        raise CheckpointError(f"{place.folder}: expected {place.digest}, got {found}")


def read_foundation(place: FoundationFolder) -> nn.Module:
    """Build the model in a folder and load its weights. Raises :class:`CheckpointError` as above."""
    verify_foundation(place)
    weights = place.folder / WEIGHTS
    config = read_description(place.folder)
    if is_language_model(config):
        raise CheckpointError(
            f"{place.folder}: expected a model of images, got the language model {config['architectures']}"
        )
    try:
        model = empty_foundation(config)
        state, _ = read_tensors(weights)
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
