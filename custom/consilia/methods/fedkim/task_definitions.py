"""The medical tasks of a run, as data: modalities, descriptions for the router, questions, and possible answers."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import Field, field_validator, model_validator

from consilia.core.errors import ConfigError
from consilia.core.schema import Strict
from consilia.data.yaml_file import read_yaml, validate

EMBEDDED = Path(__file__).parents[2] / "tasks"
TEXT = "text"
"""The one modality without an encoder: the language model's own embeddings read it."""

_TAKEN = ("args", "name", "path")
"""NVFlare takes a dictionary in a job that has such a key for a component of its own to build."""
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")


class MedicalTask(Strict):
    """One task.

    Attributes:
        modalities: what a case consists of.
        description: what is asked and of whom, a sentence or two; goes to the router.
        question: put to the language model with every case; null where each case brings its own.
        answers: the candidates whose likelihoods are compared, in the order of the dataset's classes.
        trained: whether sites train it (seen), or it is only asked (unseen).
    """

    modalities: tuple[str, ...] = Field(min_length=1)
    description: str = Field(min_length=1)
    question: str | None = None
    answers: tuple[str, ...] = Field(min_length=2)
    trained: bool = False

    @property
    def encoded(self) -> tuple[str, ...]:
        """The modalities that an encoder reads."""
        return tuple(modality for modality in self.modalities if modality != TEXT)


class TaskDefinitions(Strict):
    """Modalities by name with their descriptions, and the tasks over them."""

    modalities: dict[str, str] = Field(min_length=1, description="what each is, for the router")
    tasks: dict[str, MedicalTask] = Field(min_length=1, description="what is asked about which modalities")

    @field_validator("modalities", "tasks")
    @classmethod
    def _plain_names(cls, named: dict[str, object]) -> dict[str, object]:
        # They become names of tensors and folders.
        wrong = [name for name in named if not _NAME.fullmatch(name) or name in _TAKEN]
        if wrong:
            raise ValueError(
                f"names hold lower-case letters, digits and '-' only, and are none of {_TAKEN}; got {wrong}"
            )
        return named

    @model_validator(mode="after")
    def _complete(self) -> TaskDefinitions:
        for name, task in self.tasks.items():
            unknown = sorted(set(task.modalities) - set(self.modalities))
            if unknown:
                raise ValueError(f"task {name} has modalities {unknown}, described are {sorted(self.modalities)}")
            if len(set(task.modalities)) != len(task.modalities):
                raise ValueError(f"task {name}: modalities must differ, got {list(task.modalities)}")
            odd = [answer for answer in task.answers if not answer or answer != " ".join(answer.split()).lower()]
            if odd:
                raise ValueError(f"task {name}: answers are compared in lower case and with single blanks, got {odd}")
            if any(one != other and other.startswith(one) for one in task.answers for other in task.answers):
                raise ValueError(
                    f"task {name}: no answer may begin with another, which would always be the likelier: "
                    f"got {list(task.answers)}"
                )
            if len(set(task.answers)) != len(task.answers):
                raise ValueError(f"task {name}: answers must differ, got {list(task.answers)}")
            if task.trained and not task.encoded:
                raise ValueError(f"task {name} is text alone, for which sites have no encoder to train")
            if task.trained and task.question is None:
                raise ValueError(f"task {name} is trained by sites, so one question must go for all its cases")
        if not self.seen:
            raise ValueError("no task is trained by the sites: set trained: true for at least one")
        return self

    @property
    def seen(self) -> tuple[str, ...]:
        """The tasks that sites train, sorted."""
        return tuple(sorted(name for name, task in self.tasks.items() if task.trained))

    @property
    def unseen(self) -> tuple[str, ...]:
        """The other tasks, sorted."""
        return tuple(sorted(name for name, task in self.tasks.items() if not task.trained))

    def modality_text(self, task: str) -> str:
        """M_t: what the router is told of the task's modalities."""
        return " ".join(self.modalities[modality] for modality in self.tasks[task].modalities)

    def trained_on(self, modality: str) -> tuple[str, ...]:
        """The seen tasks that read a modality."""
        return tuple(name for name in self.seen if modality in self.tasks[name].modalities)

    def task(self, name: str) -> MedicalTask:
        """The task of that name. Raises :class:`ConfigError` listing those there are."""
        if name not in self.tasks:
            raise ConfigError(f"no task {name!r}; there are {', '.join(sorted(self.tasks))}")
        return self.tasks[name]


def load_task_definitions(source: str | Path) -> TaskDefinitions:
    """Read a task_definitions file, or the embedded one of that name (``medical``, ``phantom``).

    Raises:
        ConfigError: names the file, the key, what was expected and what came.
    """
    embedded = EMBEDDED / f"{source}.yaml"
    path = embedded if embedded.is_file() else Path(source)
    return validate(TaskDefinitions, read_yaml(path), path)
