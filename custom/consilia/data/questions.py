"""Questions in words and their answers, about an image, a record, or text alone: format questions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from consilia.core.errors import ConfigError, DataError
from consilia.data.cases import UNKNOWN, Cases, index_cases, read_table, require_columns, require_file
from consilia.data.dataset import SPLITS, DatasetSplits
from consilia.data.loading import index_and_split, require_cases
from consilia.data.problems import Problems
from consilia.data.public_pool import load_pool
from consilia.data.question_spec import AboutSpec, ImageInput, QuestionsSpec, SignalInput
from consilia.data.readers.base import Reader, short_digest
from consilia.data.readers.images import ImagesReader
from consilia.data.readers.signals import SignalsReader
from consilia.data.site import SiteConfig
from consilia.data.specs import ImagesSpec, LabelSpec, SignalsSpec

QUESTION, ANSWER, CONTEXT = "question#", "answer#", "context#"  # '#': no column of the file's own is overwritten


@dataclass(frozen=True)
class QuestionSplit:
    """Questions of one split; ids and patients stay where they are.

    Attributes:
        questions: N texts, the context and a line break before the question where there is one.
        answers: N texts in lower case.
        inputs: (M, ...) float32, the distinct images or records, preprocessed; None for text alone.
        input_of: (N,) int64: question i is about ``inputs[input_of[i]]``; all 0 for text alone.
        case_ids: N ids.
        patients: N ids; the case ids where the file has no patient column.
    """

    questions: tuple[str, ...]
    answers: tuple[str, ...]
    inputs: Tensor | None
    input_of: Tensor
    case_ids: tuple[str, ...]
    patients: tuple[str, ...]

    def __post_init__(self) -> None:
        counts = [len(self.questions), *map(len, (self.answers, self.input_of, self.case_ids, self.patients))]
        if len(set(counts)) != 1:
            raise ValueError(f"expected as many answers, inputs' places, ids and patients as questions, got {counts}")
        most = 1 if self.inputs is None else len(self.inputs)
        if len(self.input_of) and not 0 <= int(self.input_of.min()) <= int(self.input_of.max()) < most:
            raise ValueError(f"expected places in 0..{most - 1}, got {self.input_of.min()}..{self.input_of.max()}")

    def __len__(self) -> int:
        return len(self.questions)


class QuestionsReader:
    """Reads format questions: one case per question; the label is the place of its answer in ``classes``, or UNKNOWN
    for an open question.
    """

    def __init__(self, spec: QuestionsSpec) -> None:
        self.spec = spec

    def index(self, problems: Problems) -> Cases:
        """The questions with patients and labels, without reading images or records."""
        spec = self.spec
        table = _read_files(spec)
        if isinstance(spec.input, ImageInput | SignalInput):
            require_file(spec.input.folder, "folder")
        table["case#"] = table[spec.case] if spec.case else table["key#"]
        if spec.about is not None:
            table = _made(table, spec.about)
        else:
            table[QUESTION], table[ANSWER] = table[spec.question], table[spec.answer]
            table[CONTEXT] = table[spec.context] if spec.context else ""
        cases = index_cases(table, [text.strip() for text in table["case#"]], spec, spec.file, problems)
        if spec.public_pool is not None:
            pooled = load_pool(spec.public_pool).patients
            cases = cases.take(np.array([patient not in pooled for patient in cases.patients], dtype=bool))
        for column in (QUESTION, ANSWER):
            for row in cases.rows.loc[cases.rows[column].str.strip() == "", "row#"]:
                problems.add(f"{spec.file}: row {row}: the {column.strip('#')} is empty")
        places = {answer: place for place, answer in enumerate(spec.classes)}
        labels = np.array([places.get(answer, UNKNOWN) for answer in self.answers(cases)], dtype=np.int64)
        return Cases(cases.ids, cases.patients, labels, cases.rows)

    def content(self, cases: Cases) -> Sequence[str]:
        """A digest of each question and answer where case ids are only positions in the file."""
        if self.spec.case is not None or not (cases.rows["key#"] == _row_ids(cases.rows)).all():
            return ()
        texts = zip(*(cases.rows[name] for name in (QUESTION, ANSWER, CONTEXT)), strict=True)
        return [short_digest("\x1f".join(row).encode()) for row in texts]

    def questions(self, cases: Cases) -> tuple[str, ...]:
        """The text of each question, its context before it."""
        most = self.spec.context_words
        found = []
        for context, question in zip(cases.rows[CONTEXT], cases.rows[QUESTION], strict=True):
            words = context.split()[:most]
            found.append("\n".join(([" ".join(words)] if words else []) + [question.strip()]))
        return tuple(found)

    def answers(self, cases: Cases) -> tuple[str, ...]:
        """The text of each answer: lower case, single blanks."""
        return tuple(" ".join(answer.split()).lower() for answer in cases.rows[ANSWER])

    def inputs(self, cases: Cases) -> tuple[Reader[Any], Cases, np.ndarray] | None:
        """The reader of images or records, a case for each distinct one, and each question's (N,); None without."""
        spec = self.spec.input
        if spec is None:
            return None
        key = cases.rows[spec.columns()].agg("\x1f".join, axis=1)
        codes, _ = pd.factorize(key)
        _, first = np.unique(codes, return_index=True)
        common: dict[str, Any] = {"file": self.spec.file, "classes": self.spec.classes}
        # The readers of the other formats want a label, which reading pixels and samples does not look at.
        common |= {"label": LabelSpec(column=ANSWER)} | dict(spec)
        reader: Reader[Any]
        if isinstance(spec, ImageInput):
            reader = ImagesReader(ImagesSpec(**common))
        else:
            reader = SignalsReader(SignalsSpec(**common))
        return reader, cases.take(first), codes.astype(np.int64)


def load_questions(config: SiteConfig, dataset: str) -> DatasetSplits[QuestionSplit]:
    """All questions of one dataset of format questions, of a site or of the server's own data.

    The splits are kept under ``state_dir`` as :func:`consilia.data.loading.load_dataset` keeps them. Preprocessing of
    images and records is fitted on those of the training questions; a test-only site's on all its own.

    Raises:
        ConfigError: there is no such dataset, or it is of another format.
        DataError: the data do not fit it; the message holds the first problems.
    """
    spec = config.dataset(dataset)
    where = f"site {config.site}, dataset {dataset}"
    if not isinstance(spec, QuestionsSpec):
        raise ConfigError(
            f"site {config.site}: datasets.{dataset}: expected format questions, got {spec.format}: "
            "load_dataset reads it"
        )
    reader, problems = QuestionsReader(spec), Problems()
    cases, splits = index_and_split(reader, spec, config.dataset_dir(dataset), problems, where)
    require_cases(splits, spec, config.dataset_dir(dataset), where)
    inputs, input_of = _read_inputs(reader, cases, splits, where)
    train, validation, test = (_part(reader, cases, inputs, input_of, splits == name) for name in SPLITS)
    return DatasetSplits(spec.classes, train, validation, test, spec.task)


def _read_inputs(
    reader: QuestionsReader, cases: Cases, splits: np.ndarray, where: str
) -> tuple[Tensor | None, np.ndarray]:
    """The distinct inputs (M, ...), preprocessed, and each question's place among them (N,)."""
    there = reader.inputs(cases)
    if there is None:
        return None, np.zeros(len(cases), dtype=np.int64)
    of_inputs, distinct, input_of = there
    problems = Problems()
    raw = of_inputs.read(distinct, problems)
    problems.raise_if_any(where)
    train = np.unique(input_of if reader.spec.test_only else input_of[splits == "train"])
    inputs = of_inputs.apply(of_inputs.fit(raw[train]), raw)
    if not torch.isfinite(inputs).all():
        raise DataError(f"{where}: {int((~torch.isfinite(inputs)).sum())} preprocessed value(s) are not finite")
    return inputs, input_of


def _part(
    reader: QuestionsReader, cases: Cases, inputs: Tensor | None, input_of: np.ndarray, keep: np.ndarray
) -> QuestionSplit:
    chosen = cases.take(keep)
    used, places = np.unique(input_of[keep], return_inverse=True)
    own = None if inputs is None else inputs[torch.from_numpy(used)]
    of = (
        torch.from_numpy(places.astype(np.int64)) if inputs is not None else torch.zeros(len(chosen), dtype=torch.int64)
    )
    return QuestionSplit(reader.questions(chosen), reader.answers(chosen), own, of, chosen.ids, chosen.patients)


def _read_files(spec: QuestionsSpec) -> pd.DataFrame:
    """The rows of all files as text, with ``row#`` for messages and ``key#`` for case ids."""
    tables = []
    for file in (spec.file, *spec.more_files):
        table = _read_json(file) if file.suffix.lower() == ".json" else read_table(file)
        require_columns(file, list(table), spec.needed())
        if spec.more_files:
            table["row#"] = [f"{file.stem}-{row}" for row in table["row#"]]  # of which file
        if "key#" not in table:
            table["key#"] = _row_ids(table)
        tables.append(table)
    return pd.concat(tables, ignore_index=True).fillna("")


def _row_ids(table: pd.DataFrame) -> pd.Series:
    return "row-" + table["row#"].astype(str)


def _read_json(file: Path) -> pd.DataFrame:
    """A list of objects, or an object of objects whose keys become the case ids."""
    require_file(file)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read as JSON: {error}") from error
    rows = list(content.values()) if isinstance(content, dict) else content
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{file}: expected a JSON list of objects, or an object of objects, with at least one")
    table = pd.DataFrame([{str(key): _text(value) for key, value in row.items()} for row in rows], dtype=str)
    if isinstance(content, dict):
        table["row#"] = table["key#"] = [str(key) for key in content]
    else:
        table["row#"] = np.arange(1, len(table) + 1)
    return table.fillna("")


def _text(value: object) -> str:
    """A JSON value as text: a list's items joined by blanks, nothing for null."""
    if isinstance(value, list):
        return " ".join(_text(item) for item in value)
    return "" if value is None else str(value)


def _made(table: pd.DataFrame, about: AboutSpec) -> pd.DataFrame:
    """One row per question that the columns make, in the table's order."""
    filled = {column: table[column].str.strip() != "" for column in about.names}
    parts = []
    for column in about.each.columns if about.each else ():
        assert about.each is not None
        answers = filled[column].map({True: about.each.filled, False: about.each.empty})
        text = about.each.text.format(name=about.names[column])
        parts.append(table.assign(**{QUESTION: text, ANSWER: answers, "case#": table["case#"] + f"-{column}"}))
    if about.which is not None:
        shown = [[about.names[c] for c in about.names if filled[c].iloc[i]] for i in range(len(table))]
        answers = [", ".join(names) or about.which.none for names in shown]
        which = {QUESTION: about.which.text, ANSWER: answers, "case#": table["case#"] + "-which"}
        parts.append(table.assign(**which))
    return pd.concat(parts).sort_index(kind="stable").reset_index(drop=True).assign(**{CONTEXT: ""})
