"""What site.yaml says about questions in words: where they are, or how columns make them, and what they are about."""

from __future__ import annotations

from pathlib import Path
from string import Formatter
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from consilia.core.schema import Strict
from consilia.data.base_spec import BY_LABEL, Columns, CommonSpec, Normalise, pattern_columns
from consilia.data.yaml_file import AbsolutePath


class ImageInput(Strict):
    """The image a question is about: a folder and a file name with ``{column}`` fields, as in format images."""

    format: Literal["images"]
    folder: AbsolutePath
    image: str
    mode: Literal["gray", "rgb"] = "gray"
    size: tuple[PositiveInt, PositiveInt]
    window: tuple[float, float] | None = None
    normalise: Normalise = "train"

    def columns(self) -> list[str]:
        """The columns that name the file."""
        return pattern_columns(self.image)


class SignalInput(Strict):
    """The WFDB record a question is about, as in format signals."""

    format: Literal["signals"]
    folder: AbsolutePath
    record: str
    leads: Columns = Field(min_length=1)
    samples: PositiveInt
    frequency: PositiveFloat

    def columns(self) -> list[str]:
        """The column that names the record."""
        return [self.record]


class EachQuestion(Strict):
    """A closed question about each of some columns: ``text`` with ``{name}``, and the answer for filled and empty."""

    text: str
    columns: Columns = Field(min_length=1)
    filled: str
    empty: str

    @field_validator("text")
    @classmethod
    def _named(cls, value: str) -> str:
        if [name for _, name, _, _ in Formatter().parse(value) if name is not None] != ["name"]:
            raise ValueError(f"expected one {{name}} and no other field, got {value!r}")
        return value


class WhichQuestion(Strict):
    """An open question about all columns: the answer lists the names of the filled ones, or is ``none``."""

    text: str
    none: str


class AboutSpec(Strict):
    """Questions made from columns: ``names`` says what a filled cell of each column shows.

    A row gives one question for each column of ``each``, and the one of ``which``.
    """

    names: dict[str, str] = Field(min_length=1)
    each: EachQuestion | None = None
    which: WhichQuestion | None = None

    @model_validator(mode="after")
    def _questions(self) -> AboutSpec:
        if self.each is None and self.which is None:
            raise ValueError("about needs each or which, or both")
        unknown = sorted(set(self.each.columns) - set(self.names)) if self.each else []
        if unknown:
            raise ValueError(f"about.each names columns {unknown}, which about.names {sorted(self.names)} lacks")
        return self


class QuestionsSpec(CommonSpec):
    """Questions with answers in words, in a CSV, a JSON list of objects, or a JSON object of objects by case id.

    ``classes`` are the closed answers: a question with another answer is an open one. ``question``, ``answer``,
    ``context`` and ``case`` name columns; or ``about`` makes questions from columns. ``context`` is text or a list of
    texts, cut to its first ``context_words`` words. ``input`` is the image or record that a question is about.
    """

    format: Literal["questions"]
    file: AbsolutePath
    more_files: tuple[AbsolutePath, ...] = ()
    question: str | None = None
    answer: str | None = None
    context: str | None = None
    context_words: PositiveInt = 200
    case: str | None = None
    about: AboutSpec | None = None
    input: Annotated[ImageInput | SignalInput, Field(discriminator="format")] | None = None

    def files(self) -> tuple[Path, ...]:
        return (self.file, *self.more_files)

    def fits_preprocessing(self) -> bool:
        if isinstance(self.input, ImageInput):
            return self.input.normalise == "train"
        return self.input is not None

    @model_validator(mode="after")
    def _one_way(self) -> QuestionsSpec:
        columns = (self.question, self.answer)
        if (self.about is None) == (None in columns) or (self.about is not None and columns != (None, None)):
            raise ValueError("give question and answer, or about")
        if self.about is not None and self.context is not None:
            raise ValueError("about makes questions from columns and takes no context")
        wrong = [answer for answer in self.classes if answer != " ".join(answer.split()).lower()]
        if wrong:
            raise ValueError(f"classes are compared with answers in lower case, so {wrong} would never be found")
        if self.splits.scheme in BY_LABEL:
            raise ValueError(f"splits.scheme {self.splits.scheme} goes by label, which an open question does not have")
        return self

    def needed(self) -> list[str | None]:
        """The columns that the file must have; None where a key is not given."""
        by = self.select.column if self.select else None
        about = list(self.about.names) if self.about else []
        inputs = self.input.columns() if self.input else []
        return [self.question, self.answer, self.context, self.case, self.patient, by, *about, *inputs]
