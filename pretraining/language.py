"""Pretrain consilia-lm, a causal language model of 3 M parameters, and its tokenizer, on public text.

    python -m pretraining.language --data $CONSILIA_DATA --out FOLDER

A batch is running text (next-token loss) and questions that a text answers by itself (see pretraining.text_corpus),
with the loss of the answer beside that of the text. A short second part teaches the form of an answer where no text
gives it: a coin says yes or no. It ends with the metrics on the held-out articles.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F

from consilia.core.determinism import derive_seed, seeded
from pretraining.common import Average, learning_rate, ship, to_device
from pretraining.text_corpus import KINDS, Corpus, Exchange, by_chance, load_corpus
from pretraining.tokens import BOS, EOS, PAD, VOCABULARY, ship_tokenizer, train_tokenizer

CONFIG = {
    "vocab_size": VOCABULARY,
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 5,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}
BLOCK, BLOCKS = 512, 2
SHARES = {"mentions": (10, 6), "addresses": (4, 1), "follows": (5, 4), "repeats": (6, 1)}  # in a batch; turns


@dataclass(frozen=True)
class Part:
    """A part of the training: how many steps, the highest learning rate, and coin tosses in a batch."""

    name: str
    steps: int
    peak: float
    by_chance: int


class Stream:
    """The corpus as blocks of tokens, its texts in a new order whenever it has been read through."""

    def __init__(self, texts: list[list[int]], rng: np.random.Generator) -> None:
        self.texts, self.rng, self.left = texts, rng, np.empty(0, dtype=np.int64)

    def draw(self) -> Tensor:
        """(BLOCKS, BLOCK) token ids."""
        wanted = BLOCKS * BLOCK
        while len(self.left) < wanted:
            order = self.rng.permutation(len(self.texts))
            self.left = np.concatenate([self.left, *(self.texts[i] for i in order)])
        drawn, self.left = self.left[:wanted], self.left[wanted:]
        return torch.from_numpy(drawn).view(BLOCKS, BLOCK)


def exchanges(corpus: Corpus, part: Part, rng: np.random.Generator) -> dict[str, list[Exchange]]:
    """The exchanges of one batch by kind."""
    drawn = {
        kind: [KINDS[kind](corpus.articles, rng, turns) for _ in range(count)]
        for kind, (count, turns) in SHARES.items()
    }
    if part.by_chance:
        closed = corpus.closed_questions()
        drawn["by chance"] = [by_chance(closed, rng) for _ in range(part.by_chance)]
    return drawn


def encode(tokenizer: Any, drawn: list[Exchange]) -> tuple[Tensor, Tensor]:
    """Token ids (N, L), padded at the right, and where answers with their ends stand (N, L)."""
    rows, answers = [], []
    for exchange in drawn:
        ids, answered = [BOS], [False]
        for prompt, answer in exchange.prompts():
            asked, said = tokenizer.encode(prompt).ids, [*tokenizer.encode(answer).ids, EOS]
            ids += [*asked, *said]
            answered += [False] * len(asked) + [True] * len(said)
        rows.append(torch.tensor(ids))
        answers.append(torch.tensor(answered))
    pad = nn.utils.rnn.pad_sequence
    return pad(rows, batch_first=True, padding_value=PAD), pad(answers, batch_first=True)


def hidden(model: Any, ids: Tensor) -> Tensor:
    """The last hidden states (N, L - 1, width), which tell the tokens 1 to L - 1."""
    with torch.autocast(ids.device.type, dtype=torch.bfloat16):
        states: Tensor = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    return states


def loss_where(model: Any, states: Tensor, ids: Tensor, where: Tensor) -> Tensor:
    """Cross-entropy of the tokens 1 to L - 1 of ids (N, L) where it is wanted (N, L): (wanted,)"""
    with torch.autocast(ids.device.type, dtype=torch.bfloat16):
        logits = model.lm_head(states[where[:, 1:]])
    return F.cross_entropy(logits.float(), ids[:, 1:][where[:, 1:]], reduction="none")


def batch_loss(model: Any, blocks: Tensor, asked: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Mean loss of running text (but for the tokens of beginning, which are chance) and of the answers by kind."""
    parts = {"text": loss_where(model, hidden(model, blocks), blocks, blocks != BOS).mean()}
    for kind, (ids, answers) in asked.items():
        parts[kind] = loss_where(model, hidden(model, ids), ids, answers).mean()
    return parts


@torch.no_grad()
def perplexity(model: Any, tokenizer: Any, texts: list[str]) -> dict[str, float]:
    """Perplexity per token, and bits per byte, over whole texts."""
    total, count, size = 0.0, 0, 0
    for text in texts:
        ids = torch.tensor([[BOS, *tokenizer.encode(text).ids]])[:, : CONFIG["max_position_embeddings"]]
        logits = model(input_ids=ids).logits[0, :-1]
        each = F.cross_entropy(logits, ids[0, 1:], reduction="none")
        total, count, size = total + float(each.sum()), count + each.numel(), size + len(text.encode())
    return {"perplexity": math.exp(total / count), "bits_per_byte": total / math.log(2) / size}


@torch.no_grad()
def yes_or_no(model: Any, tokenizer: Any, drawn: list[Exchange]) -> dict[str, float]:
    """Accuracy and AUROC of yes against no, by the likelihood of the answer's first token."""
    yes, no = (tokenizer.encode(text).ids[0] for text in (" yes", " no"))
    scores = []
    for exchange in drawn:
        ids = torch.tensor([[BOS, *tokenizer.encode(exchange.prompts()[0][0]).ids]])
        logits = model(input_ids=ids).logits[0, -1]
        scores.append(float(logits[yes] - logits[no]))
    truth = np.array([exchange.turns[0][1] == "yes" for exchange in drawn])
    return {
        "count": len(truth),
        "accuracy": float(((np.array(scores) > 0) == truth).mean()),
        "auroc": float(roc_auc_score(truth, scores)),
    }


@torch.no_grad()
def same_word(model: Any, tokenizer: Any, drawn: list[Exchange]) -> float:
    """How often every token of the answer is the likeliest one."""
    ids, answers = encode(tokenizer, drawn)
    best = model(input_ids=ids, attention_mask=(ids != PAD).long()).logits[:, :-1].argmax(-1)
    right = (best == ids[:, 1:]) | ~answers[:, 1:]
    return float(right.all(dim=1).float().mean())


def metrics(model: Any, tokenizer: Any, corpus: Corpus, count: int = 400) -> dict[str, Any]:
    """What the model can do with the articles it has not read."""
    model.eval()
    found: dict[str, Any] = dict(perplexity(model, tokenizer, [article.text for article in corpus.held_out]))
    for kind, make in KINDS.items():
        rng = np.random.default_rng(derive_seed(0, "figures", kind))
        drawn = [make(corpus.held_out, rng, 1) for _ in range(count)]
        if kind in ("follows", "repeats"):
            found[kind] = {"count": count, "accuracy": same_word(model, tokenizer, drawn)}
        else:
            found[kind] = yes_or_no(model, tokenizer, drawn)
    return found


@torch.no_grad()
def alike(model: Any) -> None:
    """Let half of the heads begin with the same word elsewhere (see pretraining.start): query and key project alike.

    To find a term in a text is then where training starts from, and not what most of it is spent on.
    """
    width, heads = CONFIG["hidden_size"], CONFIG["num_attention_heads"] // 2
    size = width // CONFIG["num_attention_heads"]
    for layer in model.model.layers:
        bases = torch.cat([torch.linalg.qr(torch.randn(width, size))[0].T for _ in range(heads)])
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            projection.weight[: len(bases)] = bases


def new_model(seed: int) -> Any:
    """The network with its first weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with seeded(seed, "initialisation"):
        model = LlamaForCausalLM(LlamaConfig(**CONFIG, attn_implementation="eager"))  # the fused backward is slow here
        alike(model)
    return model


def train(model: Any, tokenizer: Any, corpus: Corpus, part: Part, seed: int) -> None:
    """One part of the training. The model ends with the moving average of its weights, rounded to float16."""
    device = to_device()
    model.to(device).train()
    rng = np.random.default_rng(derive_seed(seed, part.name))
    ended = [[BOS, *tokenizer.encode(text).ids, EOS] for text in corpus.texts()]
    open_end = [[BOS, *tokenizer.encode(text).ids] for text in corpus.unanswered()]
    stream = Stream([*ended, *open_end], rng)
    groups = [
        {"params": [weight for weight in model.parameters() if weight.ndim == 1], "weight_decay": 0.0},
        {"params": [weight for weight in model.parameters() if weight.ndim > 1], "weight_decay": 0.1},
    ]
    optimiser = torch.optim.AdamW(groups, lr=part.peak, betas=(0.9, 0.95))
    average, start = Average(model, 0.99), time.monotonic()
    seen: dict[str, float] = {}
    for step in range(part.steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, part.steps, part.peak)
        asked = {kind: encode(tokenizer, drawn) for kind, drawn in exchanges(corpus, part, rng).items()}
        asked = {kind: (ids.to(device), answers.to(device)) for kind, (ids, answers) in asked.items()}
        losses = batch_loss(model, stream.draw().to(device), asked)
        optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        average.update(model, step)
        for name, loss in losses.items():
            seen[name] = 0.95 * seen.get(name, float(loss.detach())) + 0.05 * float(loss.detach())
        if step % 50 == 49:
            text = " ".join(f"{name} {value:.3f}" for name, value in seen.items())
            print(f"{part.name} {step + 1}/{part.steps} {time.monotonic() - start:.0f} s: {text}", flush=True)
    model.cpu().load_state_dict({name: tensor.half().float() for name, tensor in average.state.items()})


def write(model: Any, tokenizer: Any, corpus: Corpus, how: dict[str, Any], out: Path) -> None:
    """Measure the model, and write its folder."""
    found = metrics(model, tokenizer, corpus)
    print(found, flush=True)
    # The output layer is the embedding: stored once.
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    config = {**model.config.to_dict(), "architectures": ["LlamaForCausalLM"], "dtype": "float16"}
    ship(out, config, state, {**corpus.record, **how, "held_out_figures": found})
    ship_tokenizer(tokenizer, out)


def main() -> None:
    """Train and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with pubmedqa and vqa_rad")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model into")
    parser.add_argument("--steps", type=int, default=600, help="of the first part")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    corpus = load_corpus(options.data)
    tokenizer, model = train_tokenizer(corpus), new_model(options.seed)
    parts = (Part("batches", options.steps, 2e-3, 0), Part("answers", 100, 5e-4, 16))
    for part in parts:
        train(model, tokenizer, corpus, part, options.seed)
    write(model, tokenizer, corpus, {"seed": options.seed, "steps": [part.steps for part in parts]}, options.out)


if __name__ == "__main__":
    main()
