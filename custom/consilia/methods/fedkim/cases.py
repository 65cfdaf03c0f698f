"""The server's own data as a language model meets them: a case's inputs, a question, an answer."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from consilia.core.determinism import generator, tensor_bytes
from consilia.core.errors import ConfigError
from consilia.data.dataset import SPLITS, Split
from consilia.data.loading import load_dataset
from consilia.data.questions import QuestionSplit, load_questions
from consilia.data.site import load_site_config
from consilia.data.specs import QuestionsSpec
from consilia.methods.fedkim.task_definitions import MedicalTask, TaskDefinitions

log = logging.getLogger(__name__)

OPEN = -1
"""The truth of a question whose answer is none of the task's candidates."""


@dataclass(frozen=True)
class Cases:
    """Cases of one task.

    Attributes:
        task: its name.
        inputs: (M, ...) what an encoder reads; None for text alone.
        input_of: (N,) int64, the row of ``inputs`` that case i is about.
        questions: N of them.
        answers: N of them.
        truth: (N,) int64, the answer's place among the task's candidates, or :data:`OPEN`.
        patients: N ids, by which intervals are formed.
    """

    task: str
    inputs: Tensor | None
    input_of: Tensor
    questions: tuple[str, ...]
    answers: tuple[str, ...]
    truth: Tensor
    patients: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.questions)

    def take(self, indices: Tensor) -> Cases:
        """Some of the cases, in the order of ``indices``; the inputs stay whole."""
        places = indices.tolist()
        questions, answers, patients = (
            tuple(values[place] for place in places) for values in (self.questions, self.answers, self.patients)
        )
        return replace(
            self,
            input_of=self.input_of[indices],
            questions=questions,
            answers=answers,
            truth=self.truth[indices],
            patients=patients,
        )

    def encoder_inputs(self) -> Tensor | None:
        """(N, ...): what an encoder reads of each case."""
        return None if self.inputs is None else self.inputs[self.input_of]

    @property
    def closed(self) -> Tensor:
        """(N,) bool: whether the answer is one of the candidates."""
        return self.truth != OPEN


@dataclass(frozen=True)
class ServerCases:
    """What the server has of one task: public cases to learn from, some kept to look at, and test cases."""

    public: Cases
    validation: Cases
    test: Cases


def load_server_cases(path: Path, task_definitions: TaskDefinitions) -> dict[str, ServerCases]:
    """The server's cases of every task that its file has a dataset for.

    Raises:
        ConfigError: no dataset, or one with other classes than the task has answers.
        DataError: the data do not fit their specification.
    """
    config = load_site_config(path)
    unknown = sorted(set(config.datasets) - set(task_definitions.tasks))
    if unknown:
        log.warning("%s: datasets %s are no tasks of this run and are left aside", path, unknown)
    found = {}
    for name, task in sorted(task_definitions.tasks.items()):
        if name not in config.datasets:
            log.warning("%s: no dataset for task %s, which is therefore not asked", path, name)
        elif isinstance(config.datasets[name], QuestionsSpec):
            asked = load_questions(config, name)
            found[name] = ServerCases(*(_asked(name, task, asked.split(part)) for part in SPLITS))
        else:
            labelled = load_dataset(config, name)
            if labelled.task != "classification":
                raise ConfigError(
                    f"{path}: datasets.{name}.task: a medical task is a classification, got {labelled.task}"
                )
            if labelled.num_classes != len(task.answers):
                raise ConfigError(
                    f"{path}: datasets.{name}.classes: the task has answers {list(task.answers)}, "
                    f"got classes {list(labelled.class_names)}"
                )
            found[name] = ServerCases(*(_labelled(name, task, labelled.split(part)) for part in SPLITS))
    seen = [name for name in task_definitions.seen if name in found]
    if not seen:
        raise ConfigError(
            f"{path}: expected a dataset for some of {list(task_definitions.seen)}, got {sorted(config.datasets)}"
        )
    if not any(len(found[name].public) for name in seen):
        raise ConfigError(
            f"{path}: datasets {seen} have no training cases, and these are the public data to inject with"
        )
    return found


def _labelled(name: str, task: MedicalTask, split: Split) -> Cases:
    if task.question is None:
        raise ConfigError(f"task {name} has no question of its own, and its data bring none: use format questions")
    return Cases(
        name,
        split.inputs,
        torch.arange(len(split)),
        (task.question,) * len(split),
        tuple(task.answers[int(label)] for label in split.labels),
        split.labels.long(),
        split.patients or split.case_ids,
    )


def _asked(name: str, task: MedicalTask, split: QuestionSplit) -> Cases:
    if (split.inputs is None) == bool(task.encoded):
        there = "none" if split.inputs is None else "some"
        raise ConfigError(f"datasets.{name}.input: the task's modalities are {list(task.modalities)}, got {there}")
    places = {answer: place for place, answer in enumerate(task.answers)}
    truth = torch.tensor([places.get(answer, OPEN) for answer in split.answers], dtype=torch.int64)
    return Cases(name, split.inputs, split.input_of, split.questions, split.answers, truth, split.patients)


def fingerprint(cases: Mapping[str, ServerCases]) -> str:
    """SHA-256 over every task's inputs, questions and answers: whether two runs had the same public and test data."""
    digest = hashlib.sha256()
    for name, task in sorted(cases.items()):
        for part in (task.public, task.validation, task.test):
            texts = "\x1f".join([name, *part.questions, *part.answers])
            digest.update(f"{texts}\x1e".encode())
            for tensor in (part.input_of, part.truth, *([] if part.inputs is None else [part.inputs])):
                digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def some(cases: Cases, most: int | None, seed: int, *purpose: str | int) -> Cases:
    """At most so many of the cases, drawn by seed and purpose, in their own order; all where ``most`` is None."""
    if most is None or len(cases) <= most:
        return cases
    drawn = torch.randperm(len(cases), generator=generator(seed, *purpose, cases.task))[:most]
    return cases.take(drawn.sort().values)
