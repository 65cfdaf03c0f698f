"""What the server asks: every task's test cases, by whom they are answered, and after how many labelled cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from consilia.core.determinism import derive_seed, generator
from consilia.core.errors import TrainingStopped
from consilia.core.stop import never
from consilia.evaluation.answers import closed_metrics
from consilia.evaluation.linear import (
    linear_probabilities,
    majority_answer,
    majority_probabilities,
    text_probabilities,
)
from consilia.evaluation.open_answers import open_metrics
from consilia.methods.fedkim.answers_page import closed_example
from consilia.methods.fedkim.cases import OPEN, Cases, ServerCases, some
from consilia.methods.fedkim.config import FedKIMConfig
from consilia.methods.fedkim.injected import InjectedModel
from consilia.methods.fedkim.injection import Batch, Injection
from consilia.methods.fedkim.section import AnswerMetrics, TaskAnswers
from consilia.methods.fit import shuffled
from consilia.models.extractor import KnowledgeExtractor
from consilia.report.pictures import picture

EXAMPLES = 4
"""Cases of each task that are shown with their answers."""
AT_ONCE = 32
"""Cases that the language model answers at once."""


def pieces(cases: Cases, should_stop: Callable[[], bool] = never) -> Iterator[Cases]:
    """The cases, a few at a time. Raises :class:`TrainingStopped` between them if the run was aborted."""
    for part in torch.split(torch.arange(len(cases)), AT_ONCE) if len(cases) else ():
        if should_stop():
            raise TrainingStopped("the questions were told to stop")
        yield cases.take(part)


def ask(model: InjectedModel, cases: Cases, *, seed: int, should_stop: Callable[[], bool] = never) -> TaskAnswers:
    """Metrics of the injected model's answers to one task's cases."""
    model.eval()
    closed, opened = cases.take(torch.nonzero(cases.closed)[:, 0]), cases.take(torch.nonzero(~cases.closed)[:, 0])
    found = {}
    if len(closed):
        probabilities = torch.cat([model.probabilities(piece) for piece in pieces(closed, should_stop)])
        found["closed"] = closed_answers(probabilities, closed, seed=seed)
    if len(opened):
        texts = [text for piece in pieces(opened, should_stop) for text in model.decode(piece)]
        found["open"] = open_answers(texts, opened, seed=seed)
    return TaskAnswers(**found)


def closed_answers(probabilities: torch.Tensor, cases: Cases, *, seed: int) -> AnswerMetrics:
    """Metrics of probabilities (N, K) of the candidates."""
    chance = derive_seed(seed, "intervals", cases.task)
    metrics = closed_metrics(probabilities.double().numpy(), cases.truth.numpy(), cases.patients, seed=chance)
    return AnswerMetrics.model_validate(metrics)


def open_answers(texts: Sequence[str], cases: Cases, *, seed: int) -> AnswerMetrics:
    """Metrics of free answers."""
    chance = derive_seed(seed, "intervals", cases.task)
    return AnswerMetrics.model_validate(open_metrics(texts, cases.answers, cases.patients, seed=chance))


@torch.no_grad()
def ask_extractor(extractor: KnowledgeExtractor, cases: Cases, *, seed: int) -> TaskAnswers:
    """Metrics of the aggregated small model on a seen task."""
    extractor.eval()
    device = next(extractor.parameters()).device
    logits = [
        extractor(inputs.to(device), cases.task).cpu()
        for piece in pieces(cases)
        if (inputs := piece.encoder_inputs()) is not None
    ]
    return TaskAnswers(closed=closed_answers(torch.cat(logits).double().softmax(dim=1), cases, seed=seed))


def baselines(learnt: Cases, asked: Cases, candidates: int, *, series: bool, seed: int) -> dict[str, TaskAnswers]:
    """Metrics of a linear model of the public cases, and of their most frequent answer, on the test cases.

    ``series``: inputs are (N, steps, features), not (N, channels, samples).
    """
    public, test = (cases.take(torch.nonzero(cases.closed)[:, 0]) for cases in (learnt, asked))
    closed, opened = {}, {}
    if len(public) and len(test):
        labels = public.truth
        majority = majority_probabilities(labels, len(test), candidates)
        seen, new = public.encoder_inputs(), test.encoder_inputs()
        if seen is not None and new is not None and len(set(public.questions)) == 1:
            linear = linear_probabilities(seen, labels, new, candidates, steps_first=series)
        else:
            linear = text_probabilities(public.questions, labels, test.questions, candidates)
        closed = {
            name: closed_answers(torch.from_numpy(probabilities), test, seed=seed)
            for name, probabilities in (("linear", linear), ("majority", majority))
        }
    free = asked.take(torch.nonzero(asked.truth == OPEN)[:, 0])
    known = [answer for answer, truth in zip(learnt.answers, learnt.truth.tolist(), strict=True) if truth == OPEN]
    if len(free) and known:
        opened["majority"] = open_answers([majority_answer(known)] * len(free), free, seed=seed)
    return {name: TaskAnswers(closed=closed.get(name), open=opened.get(name)) for name in ("linear", "majority")}


def few_shot(
    model: InjectedModel,
    learnt: Cases,
    asked: Cases,
    config: FedKIMConfig,
    seed: int,
    should_stop: Callable[[], bool],
) -> dict[str, TaskAnswers]:
    """Metrics after fine-tuning on n labelled cases of an unseen task, by n; the model is as before afterwards."""
    before, found = model.tensors(), {}
    for cases in config.evaluation.few_shot:
        public = some(learnt, None if cases == "all" else cases, seed, "shots", str(cases))
        if not len(public):
            continue
        planned = _repeated(learnt.task, len(public), config, seed)
        try:
            injection = Injection(model, {learnt.task: public}, config.injection, planned, should_stop)
            injection.run(None, f"{learnt.task} {cases}", seed, lambda step, steps: None)
            found[str(cases)] = ask(model, asked, seed=seed, should_stop=should_stop)
        finally:
            model.load(before)
    return found


def _repeated(task: str, cases: int, config: FedKIMConfig, seed: int) -> list[Batch]:
    """As many batches as asked for, in shuffled passes over the cases."""
    order = generator(seed, "shots", task, cases)
    planned: list[Batch] = []
    while len(planned) < config.evaluation.few_shot_steps:
        planned += [(task, indices) for indices in shuffled(cases, config.injection.batch_size, order)]
    return planned[: config.evaluation.few_shot_steps]


def examples(model: InjectedModel, cases: Cases) -> list[dict[str, Any]]:
    """A few cases with the model's answers, as ``write_answers`` takes them."""
    few = cases.take(torch.arange(min(EXAMPLES, len(cases))))
    if not len(few):
        return []
    model.eval()
    task = model.task_definitions.tasks[cases.task]
    inputs, texts = few.encoder_inputs(), model.decode(few)
    found = []
    for place, row in enumerate(model.probabilities(few)):
        likely = dict(zip(task.answers, row.tolist(), strict=True))
        shown = closed_example(cases.task, task.modalities, few.questions[place], few.answers[place], likely)
        if not bool(few.closed[place]):
            shown |= {"answer": texts[place], "probabilities": None}
        found.append({**shown, "picture": None if inputs is None else picture(inputs[place])})
    return found


def validated(model: InjectedModel, tasks: Mapping[str, ServerCases], *, seed: int) -> dict[str, AnswerMetrics]:
    """Metrics on the closed questions among the validation cases, by task."""
    found = {}
    for name, cases in tasks.items():
        answers = ask(model, cases.validation.take(torch.nonzero(cases.validation.closed)[:, 0]), seed=seed)
        if answers.closed is not None:
            found[name] = answers.closed
    return found
