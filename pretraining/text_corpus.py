"""The texts that the embedded language model learns from: public ones only, and no label of any task.

- PubMedQA: questions, abstracts and conclusions of the public pool (see consilia.data.public_pool); never a decision.
- VQA-RAD: the questions on images of the public pool that are asked of no other image; never an answer.
- The descriptions and questions of FedKIM's tasks.

Questions with answers are made from the texts themselves: whether a text mentions a term, whether it is about a
research question, which word follows two others, what the text was. Yes and no come equally often for every term and
every question.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from consilia.core.determinism import derive_seed
from consilia.data.public_pool import load_pool
from consilia.models.language import prompt_text

HELD_OUT = 25
SEED = 2026
TERM = re.compile(r"[a-z]{5,}")
TRIPLE = re.compile(r"\b([A-Za-z]+ [A-Za-z]+) ([A-Za-z]+)\b")
WORD = re.compile(r"[A-Za-z]+")
CLOSED = re.compile(r"(is|are|was|were|does|do|did|has|have|can|will)\b", re.IGNORECASE)
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")


@dataclass(frozen=True)
class Article:
    """One article of PubMedQA: its PubMed id, question, abstract without the conclusion, and conclusion."""

    id: str
    question: str
    abstract: str
    conclusion: str

    @property
    def sentences(self) -> list[str]:
        return SENTENCE.split(self.abstract)

    @property
    def text(self) -> str:
        return f"{self.question}\n{self.abstract}\n{self.conclusion}"


@dataclass(frozen=True)
class Corpus:
    """Articles to train on and held out, questions on images, and what is said of FedKIM's tasks."""

    articles: tuple[Article, ...]
    held_out: tuple[Article, ...]
    image_questions: tuple[str, ...]
    task_questions: tuple[str, ...]
    descriptions: tuple[str, ...]
    record: dict[str, Any]

    def texts(self) -> list[str]:
        """The running text to train on."""
        return [*(article.text for article in self.articles), *self.descriptions]

    def closed_questions(self) -> list[str]:
        """The questions on images and of tasks that yes or no would answer."""
        return [question for question in (*self.image_questions, *self.task_questions) if CLOSED.match(question)]

    def unanswered(self) -> list[str]:
        """Prompts to train on to which there is no answer: the model must not learn that none follows."""
        return [prompt_text(question) for question in (*self.image_questions, *self.task_questions)]


@dataclass(frozen=True)
class Exchange:
    """A text (or none), and questions with answers that need no expert: (question, answer), turn after turn."""

    text: str
    turns: tuple[tuple[str, str], ...]

    def prompts(self) -> list[tuple[str, str]]:
        """(prompt, answer) of each turn; the text stands before the first question."""
        before = f"{self.text}\n" if self.text else ""
        asked = [f"{before}{self.turns[0][0]}", *(question for question, _ in self.turns[1:])]
        return [(prompt_text(question), f" {answer}") for question, (_, answer) in zip(asked, self.turns, strict=True)]


def load_corpus(data: Path) -> Corpus:
    """Read the public part of ``pubmedqa`` and ``vqa_rad`` below the folder, and the tasks that ship."""
    articles = _articles(data / "pubmedqa" / "ori_pqal.json")
    by_chance = sorted(articles, key=lambda article: derive_seed(SEED, "held out", article.id))
    held_out = {article.id for article in by_chance[:HELD_OUT]}
    images, image_questions = _image_questions(data / "vqa_rad")
    task_definitions = yaml.safe_load((files("consilia") / "tasks" / "medical.yaml").read_text(encoding="utf-8"))
    tasks = task_definitions["tasks"].values()
    return Corpus(
        articles=tuple(article for article in articles if article.id not in held_out),
        held_out=tuple(article for article in articles if article.id in held_out),
        image_questions=image_questions,
        task_questions=tuple(task["question"] for task in tasks if task["question"]),
        descriptions=(*task_definitions["modalities"].values(), *(task["description"] for task in tasks)),
        record={
            "pubmedqa": {
                "ids": sorted(article.id for article in articles if article.id not in held_out),
                "held_out": sorted(held_out),
            },
            "vqa_rad": {"images": images},
            "tasks": sorted(task_definitions["tasks"]),
        },
    )


def _articles(path: Path) -> tuple[Article, ...]:
    pool = load_pool("pubmedqa").case_ids
    rows = json.loads(path.read_text(encoding="utf-8"))
    return tuple(
        Article(
            id, *(" ".join(text.split()) for text in (row["QUESTION"], " ".join(row["CONTEXTS"]), row["LONG_ANSWER"]))
        )
        for id, row in sorted(rows.items())
        if id in pool
    )


def _image_questions(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    pool = load_pool("vqa_rad").case_ids
    rows = [row for part in ("train", "test") for row in json.loads((folder / f"{part}set.json").read_text())]
    pooled = [row for row in rows if row["image_name"] in pool]
    tested = {row["question"].strip().lower() for row in rows if row["image_name"] not in pool}
    # Some questions are asked of many images: what is asked of a test image is a test text.
    used = [row for row in pooled if row["question"].strip().lower() not in tested]
    return sorted({row["image_name"] for row in used}), tuple(sorted({row["question"].strip() for row in used}))


def _excerpt(article: Article, longest: int, rng: np.random.Generator) -> str:
    """One to ``longest`` neighbouring sentences of an abstract."""
    sentences = article.sentences
    count = min(int(rng.integers(1, longest + 1)), len(sentences))
    start = int(rng.integers(len(sentences) - count + 1))
    return " ".join(sentences[start : start + count])


def mentions(articles: tuple[Article, ...], rng: np.random.Generator, turns: int = 1) -> Exchange:
    """Whether an excerpt mentions a term. Of two excerpts one has it, and chance says which is shown.

    So a term alone tells nothing: each is as often answered yes as no.
    """
    while True:
        pair = [_excerpt(articles[i], 2, rng) for i in rng.choice(len(articles), 2, replace=False)]
        words = [set(WORD.findall(text.lower())) for text in pair]
        terms = [sorted(set(TERM.findall(pair[i])) & words[i] - words[1 - i]) for i in range(2)]
        if all(terms):
            break
    shown, asked = int(rng.integers(2)), []
    for _ in range(turns):
        side = int(rng.integers(2))
        term = terms[side][int(rng.integers(len(terms[side])))]
        asked.append((f"Does the text mention {term}?", "yes" if side == shown else "no"))
    return Exchange(pair[shown], tuple(asked))


def addresses(articles: tuple[Article, ...], rng: np.random.Generator, turns: int = 1) -> Exchange:
    """Whether an excerpt belongs to a research question: it is of that article or of another, by chance. One turn."""
    one, other = (articles[i] for i in rng.choice(len(articles), 2, replace=False))
    asked = int(rng.integers(2))
    question = f"Is this text about the question: {(one, other)[asked].question}"
    return Exchange(_excerpt(one, 4, rng), ((question, ("yes", "no")[asked]),))


def follows(articles: tuple[Article, ...], rng: np.random.Generator, turns: int = 1) -> Exchange:
    """Which word comes after two others of an excerpt."""
    while True:
        text = _excerpt(articles[int(rng.integers(len(articles)))], 2, rng)
        places = [place for place in TRIPLE.finditer(text) if text.count(place[1]) == 1]
        if places:
            break
    chosen = [places[i] for i in rng.permutation(len(places))[:turns]]
    return Exchange(text, tuple((f"Which word follows '{place[1]}'?", place[2]) for place in chosen))


def repeats(articles: tuple[Article, ...], rng: np.random.Generator, turns: int = 1) -> Exchange:
    """A sentence once more. One turn."""
    text = _excerpt(articles[int(rng.integers(len(articles)))], 1, rng)
    return Exchange(text, (("Repeat the text.", text),))


def by_chance(questions: list[str], rng: np.random.Generator) -> Exchange:
    """A question to be answered with yes or no, and one of them by the toss of a coin.

    It teaches what an answer looks like where no text gives it, and that yes and no are equally likely.
    """
    return Exchange("", ((questions[int(rng.integers(len(questions)))], ("yes", "no")[int(rng.integers(2))]),))


KINDS: dict[str, Callable[[tuple[Article, ...], np.random.Generator, int], Exchange]] = {
    "mentions": mentions,
    "addresses": addresses,
    "follows": follows,
    "repeats": repeats,
}
