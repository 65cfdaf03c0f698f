"""The tokenizer of consilia-lm: byte-level byte pairs, learnt from the training texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from consilia.core.files import write_json
from consilia.models.language import prompt_text
from pretraining.text_corpus import Corpus

VOCABULARY = 4096
SPECIAL = ("<pad>", "<bos>", "<eos>")
PAD, BOS, EOS = range(3)


def train_tokenizer(corpus: Corpus) -> Any:
    """A ``tokenizers.Tokenizer`` of :data:`VOCABULARY` tokens; it adds no special token by itself."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    # The form of prompt and answer often enough that its words become tokens.
    form = [
        prompt_text(question) + f" {answer}" for question in corpus.task_questions for answer in ("yes", "no", "maybe")
    ]
    tokenizer.train_from_iterator([*corpus.texts(), *corpus.unanswered(), *form * 5], trainer)
    return tokenizer


def ship_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json as transformers' AutoTokenizer reads them."""
    tokenizer.save(str(folder / "tokenizer.json"))
    pad, bos, eos = SPECIAL
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": pad,
        "bos_token": bos,
        "eos_token": eos,
        "model_max_length": 1024,
        "clean_up_tokenization_spaces": False,
    }
    write_json(folder / "tokenizer_config.json", config)
