"""A frozen language model that reads encoders' tokens through an aligner, adapted by routed experts (FedKIM)."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from consilia.core.determinism import seeded
from consilia.core.errors import CheckpointError, ConfigError
from consilia.core.tensor_files import read_tensors, write_tensors
from consilia.data.allowed import FoundationFolder
from consilia.methods.fedkim.cases import Cases
from consilia.methods.fedkim.config import FedKIMConfig
from consilia.methods.server import MODEL_CARD
from consilia.models.extractor import KnowledgeExtractor
from consilia.models.language import LanguageModel, load_language_model, prompt_text

ADAPTER, TRAINED = "adapter_model.safetensors", "injected.safetensors"
LANGUAGE = "language."
"""How the names of the language model's tensors begin, its adapter's among them."""
PRECISION = {"bfloat16": torch.bfloat16, "float16": torch.float16}
IGNORED = -100
"""Marks positions whose token is not learnt."""


class InjectedModel(nn.Module):
    """h = [e; p]: bos, aligned feature tokens, the question, and behind it the answer.

    What trains: the experts and the router, the aligner (one linear map g per modality) and the encoders. The language
    model and its embeddings are frozen.

    Args:
        language: model and tokenizer; the model gets its adapters here.
        extractor: its encoders are used, its heads are not.
        config: the method's parameters.
        seed: decides the initial experts, router and aligner.

    Raises:
        ConfigError: the tokenizer has no end of text; later, a question that is longer than the language model takes.
    """

    def __init__(self, language: LanguageModel, extractor: KnowledgeExtractor, config: FedKIMConfig, seed: int) -> None:
        super().__init__()
        self.tokenizer: Any = language.tokenizer
        self.task_definitions, self.config = config.task_definitions, config
        self.extractor = extractor
        if self.tokenizer.eos_token_id is None:
            raise ConfigError("the language model's tokenizer names no end of text (eos_token), by which answers end")
        base = language.model.requires_grad_(False)
        self._positions = getattr(base.config, "max_position_embeddings", None)
        parameters = set(inspect.signature(base.forward).parameters)
        self._keeps_logits, self._takes_positions = "logits_to_keep" in parameters, "position_ids" in parameters
        self.embed: Any = base.get_input_embeddings()
        width = self.embed.embedding_dim
        with seeded(seed, "injected model"):
            self.language: Any = base if config.adapter == "none" else _adapted(base, config, width)
            linears = {name: nn.Linear(extractor.width, width) for name in extractor.encoders}
            spread = float(self.embed.weight.float().std()) / extractor.width**0.5
            for linear in linears.values():
                # Encoders end in a layer norm: so scaled, a feature token is as large as a word's embedding.
                nn.init.normal_(linear.weight, std=spread)
                nn.init.zeros_(linear.bias)
        self.aligner = nn.ModuleDict(linears)
        extractor.encoders.requires_grad_(True)
        extractor.heads.requires_grad_(False)

    # ---- state -------------------------------------------------------------------------------------------------

    def trained(self) -> dict[str, nn.Parameter]:
        """What the injection trains, by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def tensors(self) -> dict[str, Tensor]:
        """Copies of what is trained, on the CPU."""
        return {name: parameter.detach().cpu().clone() for name, parameter in self.trained().items()}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Overwrite what is trained."""
        for name, parameter in self.trained().items():
            parameter.copy_(tensors[name])

    def save(self, folder: Path) -> None:
        """The adapter as peft saves it, the aligner and the encoders as safetensors."""
        folder.mkdir(parents=True, exist_ok=True)
        if self.config.adapter == "m3oe":
            self.language.save_pretrained(str(folder))
        own = {name: tensor for name, tensor in self.tensors().items() if not name.startswith(LANGUAGE)}
        write_tensors(folder / TRAINED, own)

    @torch.no_grad()
    def load_saved(self, folder: Path) -> None:
        """Overwrite what is trained with what :meth:`save` has written.

        Raises:
            CheckpointError: a file is missing, is no safetensors file, or is of another model.
        """
        try:
            if self.config.adapter == "m3oe":
                from peft import set_peft_model_state_dict

                set_peft_model_state_dict(self.language, read_tensors(folder / ADAPTER)[0])
            own = read_tensors(folder / TRAINED)[0]
            places = {name: place for name, place in self.trained().items() if not name.startswith(LANGUAGE)}
            if set(own) != set(places):
                odd = sorted(set(own) ^ set(places))
                raise CheckpointError(f"{folder / TRAINED}: does not fit the model of {MODEL_CARD}: {odd[0]!r}")
            for name, place in places.items():
                place.copy_(own[name])
        except (OSError, RuntimeError) as error:
            raise CheckpointError(f"{folder}: cannot be read as an injected model: {error}") from error

    # ---- routing -----------------------------------------------------------------------------------------------

    def gates(self, task: str) -> Tensor:
        """The experts' weights (P,) for a task; they depend on its description and its modalities' alone."""
        tuner = self.language.base_model
        modality, description = self.task_definitions.modality_text(task), self.task_definitions.tasks[task].description
        if self.config.router == "task":
            modality = description
        elif self.config.router == "modality":
            description = modality
        (queries, query_mask), (keys, key_mask) = self._described(modality), self._described(description)
        weights: Tensor = tuner.route(queries, query_mask, keys, key_mask)[0]
        return weights

    @property
    def routed(self) -> bool:
        """Whether there are experts to choose between."""
        return self.config.adapter == "m3oe" and self.config.experts > 1

    def _described(self, text: str) -> tuple[Tensor, Tensor]:
        ids = self.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids.to(self.embed.weight.device)
        return self.embed(ids).float(), torch.ones_like(ids)

    def _route(self, task: str, cases: int) -> None:
        if self.routed:
            self.language.base_model.set_gates(self.gates(task).expand(cases, -1))

    # ---- reading -----------------------------------------------------------------------------------------------

    def features(self, cases: Cases) -> Tensor | None:
        """e = g(ENC(x)) of each case's modalities, one after the other: (N, n, hidden); None for text alone."""
        inputs = cases.encoder_inputs()
        modalities = self.task_definitions.tasks[cases.task].encoded
        if inputs is None or not modalities:
            return None
        inputs = inputs.to(self.embed.weight.device)
        return torch.cat([self.aligner[name](self.extractor.tokens(inputs, name)) for name in modalities], dim=1)

    def read(self, cases: Cases, endings: Sequence[Sequence[int]]) -> dict[str, Any]:
        """Embeddings of [bos, features, question, ending], padded on the left, with mask and positions."""
        features = self.features(cases)
        start = [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]
        rows = []
        for place, (question, ending) in enumerate(zip(cases.questions, endings, strict=True)):
            ids = self.tokenizer(prompt_text(question), add_special_tokens=False).input_ids
            ids = ids[-self.config.evaluation.max_tokens :]
            text = self.embed(torch.tensor([*start, *ids, *ending], device=self.embed.weight.device))
            head, rest = text[: len(start)], text[len(start) :]
            own = [] if features is None else [features[place].to(text.dtype)]
            rows.append(torch.cat([head, *own, rest]))
        longest = max(len(row) for row in rows)
        if self._positions is not None and longest > self._positions:
            raise ConfigError(
                f"task {cases.task}: features, question and answer take {longest} positions, the language model has "
                f"{self._positions}: lower asking.max_tokens"
            )
        embeddings = torch.stack([functional.pad(row, (0, 0, longest - len(row), 0)) for row in rows])
        mask = torch.stack([_left_mask(len(row), longest) for row in rows]).to(embeddings.device)
        return {"inputs_embeds": embeddings, "attention_mask": mask}

    def _logits(self, read: dict[str, Any], keep: int) -> Tensor:
        """Logits (N, keep, vocabulary) of the last positions."""
        if self._takes_positions:
            read = {**read, "position_ids": (read["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)}
        if self._keeps_logits:
            read = {**read, "logits_to_keep": keep}
        logits: Tensor = self.language(**read, use_cache=False).logits[:, -keep:]
        return logits.float()

    def log_likelihood(self, cases: Cases, endings: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """log p of each ending's tokens behind the question: (N, length) and which of them are real, (N, length)."""
        self._route(cases.task, len(cases))
        length = max(len(ending) for ending in endings)
        logits = self._logits(self.read(cases, endings), length + 1)[:, :-1]
        targets = torch.tensor([[IGNORED] * (length - len(e)) + list(e) for e in endings], device=logits.device)
        chosen = -functional.cross_entropy(logits.transpose(1, 2), targets, ignore_index=IGNORED, reduction="none")
        return chosen, targets != IGNORED

    # ---- learning and answering ---------------------------------------------------------------------------------

    def answer_ids(self, answer: str, *, end: bool) -> list[int]:
        """Tokens of an answer as it stands behind a prompt, with the end of text for learning."""
        ids: list[int] = self.tokenizer(f" {answer}", add_special_tokens=False).input_ids
        ids = ids[: self.config.evaluation.answer_tokens]
        return [*ids, self.tokenizer.eos_token_id] if end else ids

    def loss(self, cases: Cases) -> tuple[Tensor, int]:
        """Sum over the answers' tokens of -log p, and how many tokens these are."""
        chosen, real = self.log_likelihood(cases, [self.answer_ids(answer, end=True) for answer in cases.answers])
        return -chosen.sum(), int(real.sum())

    @torch.no_grad()
    def probabilities(self, cases: Cases) -> Tensor:
        """(N, K): the likelihoods of the task's K candidate answers, normalised over them.

        An answer's likelihood is the product over its tokens, the end of text not among them.
        """
        candidates = [self.answer_ids(answer, end=False) for answer in self.task_definitions.tasks[cases.task].answers]
        if all(len(candidate) == 1 for candidate in candidates):
            self._route(cases.task, len(cases))
            last = self._logits(self.read(cases, [[]] * len(cases)), 1)[:, 0].log_softmax(dim=1)
            scores = last[:, [candidate[0] for candidate in candidates]]
        else:
            sums = [self.log_likelihood(cases, [candidate] * len(cases))[0].sum(dim=1) for candidate in candidates]
            scores = torch.stack(sums, dim=1)
        return scores.double().softmax(dim=1).cpu()

    @torch.no_grad()
    def decode(self, cases: Cases) -> list[str]:
        """Greedy answers as text."""
        self._route(cases.task, len(cases))
        ids = self.language.generate(
            **self.read(cases, [[]] * len(cases)),
            max_new_tokens=self.config.evaluation.answer_tokens,
            do_sample=False,
            num_beams=1,
            # A folder's own generation_config.json may penalise words or name other ends of text.
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.eos_token_id,
        )
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]


def frozen_language(config: FedKIMConfig, folders: Mapping[str, FoundationFolder]) -> LanguageModel:
    """The run's language model from this participant's folders, its weights in the precision of the forward pass."""
    asked = config.language_model
    dtype = PRECISION.get(config.injection.precision, torch.float32)
    return load_language_model(asked.model, asked.digest, folders, dtype=dtype)


def _adapted(base: nn.Module, config: FedKIMConfig, width: int) -> nn.Module:
    from peft import get_peft_model

    from consilia.methods.fedkim.m3oe import M3OEConfig

    modules = config.target_modules
    adapter = M3OEConfig(
        num_experts=config.experts,
        r=config.rank,
        target_modules=modules if isinstance(modules, str) else list(modules),
        embedding_dim=width,
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        # peft asks the language model for a property by its old name.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        adapted: nn.Module = get_peft_model(base, adapter)
    return adapted


def _left_mask(real: int, longest: int) -> Tensor:
    return (torch.arange(longest) >= longest - real).long()
