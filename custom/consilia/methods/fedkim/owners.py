"""Which tasks train a tensor of the knowledge extractor."""

from __future__ import annotations

from consilia.methods.fedkim.task_definitions import TaskDefinitions
from consilia.models.extractor import ENCODER, HEAD


def owners(name: str, task_definitions: TaskDefinitions) -> tuple[str, ...]:
    """The seen tasks that train a tensor of the extractor: those of its encoder's modality, or its head's."""
    for prefix in (ENCODER, HEAD):
        if name.startswith(prefix):
            own = name.removeprefix(prefix).split(".", 1)[0]
            return task_definitions.trained_on(own) if prefix == ENCODER else (own,)
    return ()
