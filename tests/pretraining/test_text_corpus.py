"""What consilia-lm learns from: public texts only, no label of any task, the same on every machine."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from consilia.data.public_pool import load_pool
from consilia.data.public_pool.__main__ import pubmedqa_list, vqa_rad_list
from consilia.models.foundation import EMBEDDED_FOLDER
from consilia.models.language import prompt_text
from pretraining.text_corpus import KINDS, Article, Corpus, by_chance, load_corpus

POOLS = Path(__file__).parents[2] / "custom" / "consilia" / "data" / "public_pool"
ARTICLES = tuple(
    Article(
        str(i), f"Is {animal} kept?", f"The {animal} sleeps in the {place}. Nobody saw the {thing} there.", "It is."
    )
    for i, (animal, place, thing) in enumerate(
        [("tiger", "garden", "bucket"), ("horse", "stable", "saddle"), ("mouse", "kitchen", "cheese")]
    )
)


@pytest.fixture(scope="module")
def root(data_root: Path) -> Path:
    for name in ("pubmedqa", "vqa_rad"):
        if not (data_root / name).exists():
            pytest.skip(f"{data_root / name} is not there")
    return data_root


@pytest.fixture(scope="module")
def corpus(root: Path) -> Corpus:
    return load_corpus(root)


@pytest.fixture(scope="module")
def used() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((EMBEDDED_FOLDER / "consilia-lm" / "training_data.json").read_text())
    return content


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_pools_are_reproduced_from_the_data(root: Path) -> None:
    assert pubmedqa_list(root / "pubmedqa") == (POOLS / "pubmedqa.txt").read_text()
    assert vqa_rad_list(root / "vqa_rad") == (POOLS / "vqa_rad.txt").read_text()


def test_the_pools_hold_no_official_test_question_and_three_fifths_of_the_images(root: Path) -> None:
    questions, images = load_pool("pubmedqa"), load_pool("vqa_rad")
    tested = set(read(root / "pubmedqa" / "test_ground_truth.json"))
    assert len(tested) == len(questions.case_ids) == 500
    assert questions.case_ids.isdisjoint(tested)
    rows = [row for part in ("train", "test") for row in read(root / "vqa_rad" / f"{part}set.json")]
    names = {row["image_name"] for row in rows}
    assert images.patients == images.case_ids < names
    assert len(images.case_ids) == round(0.6 * len(names))


def test_no_embedded_model_has_seen_a_test_image_of_vqa_rad(root: Path, used: dict[str, Any]) -> None:
    pool = load_pool("vqa_rad").case_ids
    seen = read(EMBEDDED_FOLDER / "consilia-vit" / "training_data.json")["vqa_rad"]["images"]
    assert len(seen) > 100
    assert pool.issuperset(seen)
    assert pool.issuperset(used["vqa_rad"]["images"])


def test_the_model_was_trained_on_public_questions_only(used: dict[str, Any]) -> None:
    trained, held_out = set(used["pubmedqa"]["ids"]), set(used["pubmedqa"]["held_out"])
    assert len(trained) == 475
    assert len(held_out) == 25
    assert not trained & held_out
    assert trained | held_out == load_pool("pubmedqa").case_ids
    assert set(used) == {"pubmedqa", "vqa_rad", "tasks", "seed", "steps", "held_out_figures"}


def test_the_record_is_what_the_corpus_holds(corpus: Corpus, used: dict[str, Any]) -> None:
    assert {name: used[name] for name in corpus.record} == corpus.record


def test_no_decision_no_answer_and_no_test_text_is_in_the_corpus(root: Path, corpus: Corpus) -> None:
    everything, rows = "\n\n".join(corpus.texts()), read(root / "pubmedqa" / "ori_pqal.json")
    for id in read(root / "pubmedqa" / "test_ground_truth.json"):
        parts = (rows[id]["QUESTION"], rows[id]["CONTEXTS"][0], rows[id]["LONG_ANSWER"])
        assert not any(" ".join(part.split()) in everything for part in parts), id
    # An article ends with its conclusion and a question with its prompt: nothing follows that could be an answer.
    articles = {f"{a.question}\n{a.abstract}\n{a.conclusion}" for a in corpus.articles}
    assert len(articles) == 475
    assert set(corpus.texts()) == articles | set(corpus.descriptions)
    assert set(corpus.unanswered()) == {
        f"### Human: {question}\n### Assistant:" for question in (*corpus.image_questions, *corpus.task_questions)
    }


def test_no_question_on_a_test_image_is_in_the_corpus_not_even_where_a_public_image_shares_it(
    root: Path, corpus: Corpus
) -> None:
    pool = load_pool("vqa_rad").case_ids
    rows = [row for part in ("train", "test") for row in read(root / "vqa_rad" / f"{part}set.json")]
    public, tested = (
        {row["question"].strip().lower() for row in rows if (row["image_name"] in pool) == pooled}
        for pooled in (True, False)
    )
    assert public & tested  # some are asked of many images
    assert {question.lower() for question in corpus.image_questions} == public - tested


def test_the_corpus_is_the_same_every_time(root: Path, corpus: Corpus) -> None:
    again = load_corpus(root)
    assert again == corpus
    for make in KINDS.values():
        first, second = (make(articles, np.random.default_rng(5), 2) for articles in (corpus.articles, again.articles))
        assert first == second


def test_yes_means_that_the_term_is_there_and_terms_tell_nothing_by_themselves() -> None:
    rng = np.random.default_rng(0)
    said: Counter[tuple[str, str]] = Counter()
    for _ in range(2000):
        exchange = KINDS["mentions"](ARTICLES, rng, 1)
        term = exchange.turns[0][0].removeprefix("Does the text mention ").removesuffix("?")
        assert (exchange.turns[0][1] == "yes") == bool(re.search(rf"\b{term}\b", exchange.text)), exchange
        said[term, exchange.turns[0][1]] += 1
    for term in ("tiger", "saddle", "kitchen"):
        assert 0.35 < said[term, "yes"] / (said[term, "yes"] + said[term, "no"]) < 0.65


def test_a_research_question_belongs_to_its_own_article() -> None:
    rng = np.random.default_rng(1)
    answers = Counter[str]()
    for _ in range(400):
        exchange = KINDS["addresses"](ARTICLES, rng, 1)
        ((question, answer),) = exchange.turns
        own = next(article for article in ARTICLES if article.question in question)
        assert (answer == "yes") == (exchange.text in own.abstract)
        answers[answer] += 1
    assert 140 < answers["yes"] < 260


def test_the_word_that_follows_follows_in_the_text() -> None:
    rng = np.random.default_rng(2)
    for _ in range(100):
        exchange = KINDS["follows"](ARTICLES, rng, 3)
        assert 1 <= len(exchange.turns) <= 3
        for question, answer in exchange.turns:
            pair = question.removeprefix("Which word follows '").removesuffix("'?")
            assert exchange.text.count(f"{pair} {answer}") == exchange.text.count(pair) == 1


def test_a_text_is_repeated_as_it_was() -> None:
    exchange = KINDS["repeats"](ARTICLES, np.random.default_rng(4), 1)
    assert any(exchange.text in article.abstract for article in ARTICLES)
    assert exchange.turns == (("Repeat the text.", exchange.text),)


def test_a_coin_says_yes_or_no_where_no_text_does(corpus: Corpus) -> None:
    """Tasks are asked, and the answer knows nothing of any case: yes and no come equally often for each question."""
    closed = corpus.closed_questions()
    assert set(corpus.task_questions) < set(closed) < {*corpus.task_questions, *corpus.image_questions}
    assert not any(question.lower().startswith(("what", "which", "where", "how")) for question in closed)
    rng = np.random.default_rng(6)
    said = Counter(by_chance(closed[:2], rng).turns[0] for _ in range(800))
    assert set(said) == {(question, answer) for question in closed[:2] for answer in ("yes", "no")}
    assert all(150 < count < 250 for count in said.values())
    exchange = by_chance(closed, rng)
    assert exchange.prompts() == [(prompt_text(exchange.turns[0][0]), f" {exchange.turns[0][1]}")]


def test_the_text_stands_before_the_first_question_only() -> None:
    exchange = KINDS["mentions"](ARTICLES, np.random.default_rng(3), 2)
    first, second = exchange.prompts()
    assert first == (prompt_text(f"{exchange.text}\n{exchange.turns[0][0]}"), f" {exchange.turns[0][1]}")
    assert second == (prompt_text(exchange.turns[1][0]), f" {exchange.turns[1][1]}")
