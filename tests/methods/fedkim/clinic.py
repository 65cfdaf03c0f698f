"""A clinic for tests: five small tasks over four modalities, cases of them, and a tiny language model."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from consilia.core.determinism import generator, seeded
from consilia.core.stop import never
from consilia.data.dataset import DatasetSplits, SiteData, Split, empty_split
from consilia.methods.fedkim.cases import OPEN, Cases, ServerCases
from consilia.methods.fedkim.config import FedKIMConfig
from consilia.methods.fedkim.injected import InjectedModel
from consilia.methods.fedkim.method import FedKIM
from consilia.methods.fedkim.task_definitions import TaskDefinitions
from consilia.methods.server import ServerContext
from consilia.models.extractor import KnowledgeExtractor
from consilia.models.foundation import EMBEDDED_FOLDER
from consilia.models.language import LanguageModel
from tests.methods.fedkim.support import randomise_experts

TASKS: dict[str, Any] = {
    "mass": {"modalities": ["image"], "question": "Malignant?", "trained": True},
    "size": {"modalities": ["image"], "question": "Is the mass large?", "trained": True},
    "kidney": {"modalities": ["vitals", "labs"], "question": "Is the kidney injured?", "trained": True},
    "heart": {"modalities": ["table"], "question": "Diseased?"},
    "paper": {"modalities": ["text"], "answers": ["no", "yes", "maybe"]},
    "ask-image": {"modalities": ["image", "text"]},
    "side": {"modalities": ["text"], "question": "Which?", "answers": ["left lung", "not at all"]},
}
MODALITIES = {name: f"What {name} tell." for name in ("image", "vitals", "labs", "table", "text")}
WIDTH = 8
VIT = {"img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 2, "in_chans": 1}
ENCODERS: dict[str, Any] = {
    "image": {"kind": "image", "tokens": 2, **VIT},
    "vitals": {"kind": "series", "columns": [0, 2], "heads": 2, "tokens": 2},
    "labs": {"kind": "series", "columns": [2, 3], "heads": 2, "tokens": 1},
    "table": {"kind": "table", "features": 4, "tokens": 1},
}
SHAPES = {"image": (1, 8, 8), "vitals": (6, 3), "table": (4,), "text": None}


def task_definitions(**changed: dict[str, Any]) -> TaskDefinitions:
    tasks = {
        name: {"description": f"Telling {name} apart.", "answers": ["no", "yes"], **task, **changed.get(name, {})}
        for name, task in TASKS.items()
    }
    return TaskDefinitions.model_validate({"modalities": MODALITIES, "tasks": tasks})


def settings(**changed: Any) -> FedKIMConfig:
    return FedKIMConfig(
        **{"method": "fedkim", "task_definitions": task_definitions(), "experts": 3, "rank": 2, **changed}
    )


def extractor(seed: int = 0, **changed: Any) -> KnowledgeExtractor:
    with seeded(seed, "extractor"):
        return KnowledgeExtractor(
            **{"encoders": ENCODERS, "width": WIDTH, **FedKIM(settings()).model_arguments(), **changed}
        )


@cache
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(EMBEDDED_FOLDER / "consilia-lm", local_files_only=True)


def language_model(dtype: torch.dtype = torch.float32) -> LanguageModel:
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        # Wider than usual, so that answers differ between cases.
        initializer_range=0.3,
    )
    with seeded(0, "language model"):
        model = LlamaForCausalLM(config).to(dtype)
    return LanguageModel(model.requires_grad_(False).eval(), tokenizer())


def injected(config: FedKIMConfig | None = None, *, random: bool = True, **changed: Any) -> InjectedModel:
    """With ``random``, B is drawn: it starts at 0, where neither router nor A get a gradient."""
    config = settings(**changed) if config is None else config
    model = InjectedModel(language_model(), extractor(), config, 5)
    if random:
        randomise_experts(model)
    return model.eval()


def cases(task: str, count: int = 5, seed: int = 0) -> Cases:
    """Random inputs; answers go round the task's candidates; questions differ in length where a case brings its own."""
    given = task_definitions().tasks[task]
    order = generator(seed, "cases", task)
    shape = SHAPES[given.modalities[0]]
    truth = torch.arange(count) % len(given.answers)
    asked = tuple("What is it" + " then" * place + "?" for place in range(count))
    return Cases(
        task,
        None if shape is None else torch.randn(count, *shape, generator=order),
        torch.arange(count) if shape else torch.zeros(count, dtype=torch.int64),
        (given.question,) * count if given.question else asked,
        tuple(given.answers[place] for place in truth.tolist()),
        truth,
        tuple(f"patient-{place // 2}" for place in range(count)),
    )


def opened(found: Cases, answers: dict[int, str]) -> Cases:
    """The same cases, some with an open answer."""
    truth = found.truth.clone()
    truth[list(answers)] = OPEN
    said = tuple(answers.get(place, answer) for place, answer in enumerate(found.answers))
    return replace(found, truth=truth, answers=said)


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


SEEN = ("kidney", "mass", "size")


def split(task: str, count: int, seed: int = 0) -> Split:
    found = cases(task, count, seed)
    assert found.inputs is not None
    return Split(found.inputs, found.truth, tuple(f"case-{place}" for place in range(count)))


def several(**training: int) -> SiteData:
    """A site with so many training cases of each task; of 0 it has test cases alone."""
    tasks = {}
    for task, count in training.items():
        test = split(task, 3, 1)
        train = split(task, count) if count else empty_split(test.inputs)
        tasks[task] = DatasetSplits(("no", "yes"), train, empty_split(test.inputs), test)
    return SiteData("a", tasks, SEEN)


def training_cases(site: SiteData) -> dict[str, int]:
    return {name: len(dataset.train) for name, dataset in site.datasets.items()}


def server_cases() -> dict[str, ServerCases]:
    found = {
        name: ServerCases(cases(name, 7, 1), cases(name, 4, 2), cases(name, 6, 3))
        for name in ("mass", "size", "kidney", "heart")
    }
    some_open = opened(cases("ask-image", 6, 3), {1: "left lung", 4: "the liver"})
    found["ask-image"] = ServerCases(opened(cases("ask-image", 5, 1), {0: "left"}), cases("ask-image", 3, 2), some_open)
    return found


def context(folder: Path, **changed: Any) -> ServerContext:
    common: dict[str, Any] = {
        "run": {"method": "fedkim"},
        "model": extractor,
        "foundation_models": {},
        "data": Path("data.yaml"),
        "folder": folder,
        "seed": 1,
        "progress": lambda event: None,
        "should_stop": never,
    }
    return ServerContext(**{**common, **changed})
