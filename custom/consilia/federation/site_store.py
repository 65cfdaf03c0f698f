"""What a site keeps of a run, and never sends: client states by round, correctness histories, personal models."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from consilia.core.errors import CheckpointError, ConfigError
from consilia.core.files import write_bytes
from consilia.core.tensor_files import write_tensors
from consilia.evaluation.forgetting import flips

HISTORY = "correctness.safetensors"
CLIENT_STATE = "client-{round:05d}.safetensors"
VALUES = "values"
"""In a client state's metadata: what is no tensor, as JSON."""

HISTORY_LENGTH = 3
"""Correctness vectors kept per model: the last one, and those a resumed run may fall back to."""


class SiteStore:
    """The folder of one run at one site; its files are readable by their owner alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def begin(self) -> None:
        """Forget an earlier run of this configuration; its personal models stay until new ones take their place."""
        (self.folder / HISTORY).unlink(missing_ok=True)
        self.keep_states(())

    # ---- client states -----------------------------------------------------------------------------------------

    def save_state(self, round_number: int, state: Mapping[str, Any]) -> None:
        """Keep the client state after a round.

        Raises:
            ConfigError: the method's state holds what is neither a tensor nor JSON.
        """
        tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
        values = {name: value for name, value in state.items() if name not in tensors}
        write_tensors(self._state_file(round_number), tensors, {VALUES: as_json(values, "client")}, private=True)

    def load_state(self, round_number: int) -> dict[str, Any]:
        """The client state after a round. Raises :class:`CheckpointError` where it is gone."""
        path = self._state_file(round_number)
        if not path.is_file():
            raise CheckpointError(f"{path} is gone: the site cannot go on with the run; submit the job anew")
        with safe_open(str(path), framework="pt") as file:
            state: dict[str, Any] = json.loads((file.metadata() or {}).get(VALUES, "{}"))
            return state | {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)

    def keep_states(self, rounds: Collection[int]) -> None:
        """Delete the client states of all other rounds."""
        wanted = {self._state_file(number) for number in rounds}
        for path in self.folder.glob("client-*.safetensors"):
            if path not in wanted:
                path.unlink()

    def _state_file(self, round_number: int) -> Path:
        return self.folder / CLIENT_STATE.format(round=round_number)

    # ---- models and history ------------------------------------------------------------------------------------

    def save_model(self, name: str, state: Mapping[str, Tensor], card: dict[str, str]) -> None:
        """Keep a personal model."""
        write_tensors(self.folder / f"{name}.safetensors", state, card, private=True)

    def save_bytes(self, name: str, content: bytes) -> None:
        """Keep a file."""
        write_bytes(self.folder / name, content, private=True)

    def count_flips(self, kind: str, version: int, correct: Tensor) -> tuple[int, int]:
        """Negative and positive flips of a model's test cases against its previous evaluation, and keep this one."""
        path = self.folder / HISTORY
        history = load_file(path) if path.is_file() else {}
        versions = sorted(int(key.rpartition("/")[2]) for key in history if key.startswith(f"{kind}/"))
        earlier = [then for then in versions if then < version]
        # The history starts at all wrong, so a first evaluation forgets nothing (specification 6.1).
        previous = history[f"{kind}/{earlier[-1]}"] if earlier else torch.zeros_like(correct)
        history[f"{kind}/{version}"] = correct
        for old in earlier[: -(HISTORY_LENGTH - 1)]:
            del history[f"{kind}/{old}"]
        write_tensors(path, history, durable=False, private=True)
        return flips(previous, correct)


def as_json(values: Mapping[str, Any], whose: str) -> str:
    """JSON of a state's values that are no tensors; raises :class:`ConfigError` where one is no JSON either."""
    for name, value in values.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            raise ConfigError(
                f"the {whose} state of the method holds {name!r}, a {type(value).__name__}: expected tensors and JSON "
                "values without NaN, or it cannot be saved"
            ) from None
    return json.dumps(dict(values))
