"""What a site keeps of a run, and never sends: client states by round, correctness histories, personal models."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from consilia.core.errors import CheckpointError, ConfigError
from consilia.core.tensor_files import read_tensors, write_tensors
from consilia.evaluation.forgetting import flips

HISTORY = "correctness.safetensors"
CLIENT_STATE = "client-{round:05d}.safetensors"
VALUES = "values"
"""In a client state's metadata: what is no tensor, as JSON."""

HISTORY_LENGTH = 3
"""Correctness vectors kept per model: the last one, and those a resumed run may fall back to; of a study all."""


class SiteStore:
    """The folder of one run at one site; its files are readable by their owner alone.

    ``whole_history``: whether it says of every evaluation which cases were right, for the forgetting of a study.
    """

    def __init__(self, folder: Path, *, whole_history: bool = False) -> None:
        self.folder = folder
        self._whole = whole_history
        self._history: dict[str, Tensor] | None = None

    def begin(self) -> None:
        """Forget an earlier run of this configuration; its personal models stay until new ones take their place."""
        (self.folder / HISTORY).unlink(missing_ok=True)
        self._history = None
        self.keep_states(())

    # ---- client states -----------------------------------------------------------------------------------------

    def save_state(self, round_number: int, state: Mapping[str, Any]) -> None:
        """Keep the client state after a round.

        Raises:
            ConfigError: the method's state holds what is neither a tensor nor JSON.
        """
        tensors, values = split_state(state, "client")
        write_tensors(self._state_file(round_number), tensors, {VALUES: json.dumps(values)}, private=True)

    def load_state(self, round_number: int) -> dict[str, Any]:
        """The client state after a round. Raises :class:`CheckpointError` where it is gone."""
        path = self._state_file(round_number)
        if not path.is_file():
            raise CheckpointError(f"{path} is gone: the site cannot go on with the run; submit the job anew")
        tensors, metadata = read_tensors(path)
        values: dict[str, Any] = json.loads(metadata.get(VALUES, "{}"))
        return values | tensors

    def keep_states(self, rounds: Collection[int]) -> None:
        """Delete the client states of all other rounds."""
        wanted = {self._state_file(number) for number in rounds}
        for path in self.folder.glob("client-*.safetensors"):
            if path not in wanted:
                path.unlink()

    def _state_file(self, round_number: int) -> Path:
        return self.folder / CLIENT_STATE.format(round=round_number)

    # ---- history ------------------------------------------------------------------------------------

    def count_flips(self, kind: str, version: int, correct: Tensor) -> tuple[int, int]:
        """Negative and positive flips of a model's test cases against its previous evaluation, and keep this one."""
        path = self.folder / HISTORY
        if self._history is None:
            self._history = read_tensors(path)[0] if path.is_file() else {}
        history = self._history
        versions = sorted(int(key.rpartition("/")[2]) for key in history if key.startswith(f"{kind}/"))
        earlier = [then for then in versions if then < version]
        # The history starts at all wrong, so a first evaluation forgets nothing (specification 6.1).
        previous = history[f"{kind}/{earlier[-1]}"] if earlier else torch.zeros_like(correct)
        history[f"{kind}/{version}"] = correct
        for old in [] if self._whole else earlier[: -(HISTORY_LENGTH - 1)]:
            del history[f"{kind}/{old}"]
        write_tensors(path, history, durable=False, private=True)
        return flips(previous, correct)


def read_history(folder: Path) -> dict[str, dict[int, Tensor]]:
    """Which test cases (N,) bool were right, by model and version, in the folder of a run at a site."""
    path = folder / HISTORY
    found: dict[str, dict[int, Tensor]] = {}
    for key, correct in (read_tensors(path)[0] if path.is_file() else {}).items():
        kind, _, version = key.rpartition("/")
        found.setdefault(kind, {})[int(version)] = correct
    return found


def split_state(state: Any, whose: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a method's state, and what is JSON.

    Raises:
        ConfigError: the state is no mapping by names, or holds what is neither; names it.
    """
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise ConfigError(
            f"the {whose} state of the method is {_kind(state)}, expected tensors and JSON values by name"
        )
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    values = {name: value for name, value in state.items() if name not in tensors}
    for name, value in values.items():
        if not _is_json(value):
            raise ConfigError(
                f"the {whose} state of the method holds {name!r}, {_kind(value)}: expected tensors by name, none "
                "within a dict or list, and JSON values without NaN whose keys are text, or it cannot be saved"
            )
    return tensors, values


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"


def _is_json(value: object) -> bool:
    """Whether JSON holds a value as it is; of a dict with other keys than text it would make another one."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_json(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_json, value))
    return value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
