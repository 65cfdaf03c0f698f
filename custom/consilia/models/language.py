"""Causal language models: the small one that ships with the package, or any Hugging Face one from a local folder.

A folder holds ``config.json``, safetensors (one file, or shards) and ``tokenizer.json``. It is pinned by its SHA-256
as every foundation model is; nothing is downloaded, no pickle is read, and no code that comes with a model is run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from consilia.core.errors import CheckpointError
from consilia.data.allowed import FoundationFolder
from consilia.models.foundation import (
    DESCRIPTION,
    foundation_place,
    is_language_model,
    read_description,
    verify_foundation,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ADAPTER = "adapter_config.json"
HUMAN, ASSISTANT = "### Human: ", "\n### Assistant:"


@dataclass(frozen=True)
class LanguageModel:
    """A frozen causal language model in evaluation mode, and its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def prompt_text(question: str) -> str:
    """A question as the model is asked it; the answer follows as a space and the answer's text.

    What stands before it (the token of beginning, features of a modality) is not text and not part of this.
    """
    return f"{HUMAN}{question}{ASSISTANT}"


def load_language_model(
    name: str,
    digest: str | None,
    folders: Mapping[str, FoundationFolder],
    *,
    dtype: torch.dtype | Literal["auto"] = torch.float32,
) -> LanguageModel:
    """The language model of that name, frozen.

    Args:
        name: ``consilia-lm``, or a model that this participant lists under ``foundation_models``.
        digest: as the job pins it; None leaves the choice to this participant.
        folders: ``foundation_models`` of this participant's site.yaml (or server.yaml).
        dtype: of the weights in memory; ``auto`` leaves them as they are on disk.

    Raises:
        ConfigError: the participant has no such model, or the job pins another.
        CheckpointError: the folder is incomplete, is not the one listed, wants code of its own to be run, or does not
            hold a causal language model that transformers knows.
    """
    place = foundation_place(name, digest, folders)
    verify_foundation(place)
    folder = place.folder
    config = read_description(folder)
    if not is_language_model(config):
        raise CheckpointError(f"{folder / DESCRIPTION}: expected a causal language model of transformers, got another")
    if "auto_map" in config:
        raise CheckpointError(
            f"{folder / DESCRIPTION}: auto_map asks for code that comes with the model; none is run. Use a model whose "
            "class is part of transformers"
        )
    if (folder / ADAPTER).exists():
        raise CheckpointError(f"{folder / ADAPTER}: an adapter would change the model unseen; give the merged model")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model, found = AutoModelForCausalLM.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=dtype,
            output_loading_info=True,
        )
    # The library builds from whatever stands in the files, and has errors of its own for it.
    except Exception as error:
        raise CheckpointError(f"{folder}: cannot be read as a causal language model: {error}") from error
    wrong = {kind: sorted(map(str, found[kind])) for kind in ("missing_keys", "mismatched_keys") if found[kind]}
    if wrong:
        raise CheckpointError(f"{folder}: the weights do not fit {DESCRIPTION}: {wrong}")
    model.requires_grad_(False)
    return LanguageModel(model.eval(), tokenizer)
