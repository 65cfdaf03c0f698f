"""Checkpoints of a run: safetensors for tensors, one JSON that names them, and a rename that makes it true at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from consilia.core.determinism import state_digest
from consilia.core.errors import CheckpointError
from consilia.core.files import write_json
from consilia.core.reading import read_json
from consilia.core.tensor_files import read_tensors, write_tensors

INDEX = "checkpoint.json"
ANEW = "choose another folder with --out, or delete this one (consilia run: --overwrite)"
BEGIN_ANEW = f"To begin the run anew, {ANEW}"
SCHEMA = "consilia.checkpoint/3"


class CheckpointEntry(NamedTuple):
    """Tensors to keep. Kind and version tell what they are: equal ones are one file.

    Attributes:
        digest: :func:`consilia.core.determinism.state_digest` of the tensors, where it is known already.
    """

    kind: str
    version: int
    tensors: Mapping[str, Tensor]
    digest: str | None = None


@dataclass(frozen=True)
class Checkpoint:
    """Everything needed to go on after a round: named models and the run's JSON state."""

    models: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


class CheckpointStore:
    """Keeps the newest checkpoint of one run in a folder.

    A file is written once under its name and the index is replaced last, so a process killed at any moment leaves the
    previous checkpoint whole. Files that the index no longer names are deleted afterwards.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._digests: dict[str, str] | None = None

    def exists(self) -> bool:
        """Whether there is a checkpoint to resume from."""
        return (self.folder / INDEX).is_file()

    def save(self, models: Mapping[str, CheckpointEntry], state: Mapping[str, Any]) -> None:
        """Save models by name, and the JSON state. A file that the index already has is not written again."""
        if self._digests is None:
            known = self._index()["models"].values() if self.exists() else ()
            self._digests = {entry["file"]: entry["digest"] for entry in known}
        digests = dict(self._digests)
        entries: dict[str, dict[str, str]] = {}
        for name, model in models.items():
            file = f"{model.kind}-{model.version:05d}.safetensors"
            if file not in digests:
                write_tensors(self.folder / file, model.tensors)
                digests[file] = model.digest or state_digest(model.tensors)
            entries[name] = {"file": file, "digest": digests[file]}
        write_json(self.folder / INDEX, {"schema": SCHEMA, "models": entries, "state": dict(state)}, compact=True)
        self._digests = {entry["file"]: entry["digest"] for entry in entries.values()}
        keep = {entry["file"] for entry in entries.values()}
        for file_path in self.folder.glob("*.safetensors"):
            if file_path.name not in keep:
                file_path.unlink()

    def clear(self) -> None:
        """Delete the checkpoint: the index first, so that what is left of it is never taken for one."""
        self._digests = None
        (self.folder / INDEX).unlink(missing_ok=True)
        for file in self.folder.glob("*.safetensors"):
            file.unlink()

    def load(self) -> Checkpoint:
        """Load the checkpoint.

        Raises:
            CheckpointError: no checkpoint, one of another schema, or a model file that is missing or altered.
        """
        index = self._index()
        models = {}
        for name, entry in index["models"].items():
            path = self.folder / entry["file"]
            if not path.is_file():
                raise CheckpointError(f"{path} is missing, though {self.folder / INDEX} names it. {BEGIN_ANEW}")
            try:
                models[name] = read_tensors(path)[0]
            except CheckpointError as error:
                raise CheckpointError(f"{path} was altered: {error}. {BEGIN_ANEW}") from error
            found = state_digest(models[name])
            if found != entry["digest"]:
                raise CheckpointError(
                    f"{path} was altered: its tensors' digest is {found}, not {entry['digest']}. {BEGIN_ANEW}"
                )
        return Checkpoint(models, index["state"])

    def _index(self) -> dict[str, Any]:
        path = self.folder / INDEX
        if not path.is_file():
            raise CheckpointError(f"no checkpoint at {path}")
        try:
            index = read_json(path, error=CheckpointError)
        except CheckpointError as error:
            raise CheckpointError(f"{error}. {BEGIN_ANEW}") from error
        schema = index.get("schema") if isinstance(index, dict) else None
        if schema != SCHEMA:
            raise CheckpointError(
                f"{path}: schema is {schema!r}, expected {SCHEMA!r}: go on with the Consilia that made it. {BEGIN_ANEW}"
            )
        if not (isinstance(index.get("models"), dict) and isinstance(index.get("state"), dict)):
            raise CheckpointError(f"{path}: expected an object under models and one under state. {BEGIN_ANEW}")
        return dict(index)
