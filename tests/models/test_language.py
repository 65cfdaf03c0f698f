"""Language models from a local folder: two architectures, pinned by every file that counts, and no foreign code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from consilia.core.errors import CheckpointError, ConfigError
from consilia.data.allowed import FoundationFolder
from consilia.models.foundation import EMBEDDED_FOLDER, embedded_digest, foundation_digest, load_foundation
from consilia.models.language import load_language_model, prompt_text
from tests.models.support import SMALL_VIT, small_vit

pytest.importorskip("transformers")
EMBEDDED_LM = EMBEDDED_FOLDER / "consilia-lm"
NONE = f"sha256:{'0' * 64}"
SMALL = {
    "vocab_size": 4096,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


def small(kind: str) -> Any:
    """A Llama with tied embeddings, or a Qwen 2 with an output layer of its own."""
    import transformers

    torch.manual_seed(0)
    if kind == "llama":
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, tie_word_embeddings=True))
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SMALL, tie_word_embeddings=False))


def pinned(folder: Path) -> dict[str, FoundationFolder]:
    return {"mine": FoundationFolder(folder=folder, digest=foundation_digest(folder))}


def saved(model: Any, folder: Path, shard: str = "1GB") -> Path:
    model.save_pretrained(folder, max_shard_size=shard)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(EMBEDDED_LM / name, folder / name)
    return folder


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_a_model_comes_back_as_it_was_saved_frozen_and_in_the_type_asked_for(kind: str, tmp_path: Path) -> None:
    model = small(kind).eval()
    folders = pinned(saved(model, tmp_path / kind))
    loaded = load_language_model("mine", folders["mine"].digest, folders)
    assert type(loaded.model) is type(model)
    assert not loaded.model.training
    assert not any(weight.requires_grad for weight in loaded.model.parameters())
    ids = torch.tensor([loaded.tokenizer.encode(prompt_text("Is it there?"), add_special_tokens=False)])
    with torch.no_grad():
        assert torch.equal(loaded.model(input_ids=ids).logits, model(input_ids=ids).logits)
    half = load_language_model("mine", None, folders, dtype=torch.bfloat16).model
    assert {weight.dtype for weight in half.parameters()} == {torch.bfloat16}


def test_shards_are_read_and_each_counts_for_the_digest(tmp_path: Path) -> None:
    model = small("qwen2").eval()
    folder = saved(model, tmp_path / "sharded", shard="100KB")
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 2
    folders = pinned(folder)
    loaded = load_language_model("mine", None, folders).model
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    tensors = load_file(shards[1])
    first = min(tensors)
    save_file({**tensors, first: tensors[first] + 1}, shards[1], metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"sharded: expected {folders['mine'].digest}, got sha256:"):
        load_language_model("mine", None, folders)
    shards[1].unlink()
    with pytest.raises(CheckpointError, match="cannot be read as a causal language model"):
        load_language_model("mine", None, pinned(folder))


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json", "generation_config.json"])
def test_another_tokenizer_or_description_is_another_model(name: str, tmp_path: Path) -> None:
    folder = saved(small("llama"), tmp_path / "llama")
    folders = pinned(folder)
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**content, "added": 1}))
    with pytest.raises(CheckpointError, match="llama: expected sha256:"):
        load_language_model("mine", None, folders)
    (folder / name).write_text(json.dumps(content))
    (folder / "README.md").write_text("a card may change")
    rewritten = foundation_digest(folder)
    assert (rewritten == folders["mine"].digest) == (name == "config.json")  # the keys' order and spaces are free there


def test_code_that_comes_with_a_model_is_refused(tmp_path: Path) -> None:
    folder = saved(small("llama"), tmp_path / "llama")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModelForCausalLM": "evil.Model"}}))
    (folder / "evil.py").write_text("raise SystemExit('was run')")
    with pytest.raises(CheckpointError, match=r"config.json: auto_map asks for code that comes with the model"):
        load_language_model("mine", None, pinned(folder))


def test_an_adapter_beside_the_model_is_refused(tmp_path: Path) -> None:
    folder = saved(small("llama"), tmp_path / "llama")
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "elsewhere"}))
    with pytest.raises(CheckpointError, match=r"adapter_config.json: an adapter would change the model"):
        load_language_model("mine", None, pinned(folder))


def test_a_pickle_alone_is_no_model(tmp_path: Path) -> None:
    folder = saved(small("llama"), tmp_path / "llama")
    place = pinned(folder)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"model.safetensors: no such file.*no pickle is read"):
        load_language_model("mine", None, place)


def test_no_tokenizer_wrong_weights_and_unknown_names_are_named(tmp_path: Path) -> None:
    folder = saved(small("llama"), tmp_path / "llama")
    place = pinned(folder)
    with pytest.raises(ConfigError, match=r"no foundation model 'phi' here.*\['mine'\].*consilia-lm"):
        load_language_model("phi", None, place)
    with pytest.raises(ConfigError, match=f"the run wants digest {NONE}"):
        load_language_model("mine", NONE, place)
    (folder / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    with pytest.raises(CheckpointError, match=r"tokenizer.json: no such file"):
        load_language_model("mine", None, place)
    (tmp_path / "tokenizer.json").rename(folder / "tokenizer.json")
    state = load_file(folder / "model.safetensors")
    del state["model.layers.1.mlp.up_proj.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"do not fit config.json.*missing_keys.*layers\.1\.mlp\.up_proj"):
        load_language_model("mine", None, pinned(folder))


def test_models_of_images_and_of_language_are_not_mistaken_for_each_other(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"consilia-lm: expected a model of images, got the language model"):
        load_foundation("consilia-lm", None, {})
    folder = tmp_path / "vit"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(SMALL_VIT))
    save_file(small_vit().state_dict(), folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"vit/config.json: expected a causal language model"):
        load_language_model("mine", None, pinned(folder))


def test_the_digests_of_the_image_models_are_as_they_were() -> None:
    """Jobs in the field pin them: config.json with sorted keys, a line break, and the weights' SHA-256."""
    assert embedded_digest("consilia-vit") == "sha256:1f7429577113a21b0ea5c02f4cc0eff8a2afbf5f8df4b1aee7cd272c04cb5dd2"
    assert embedded_digest("consilia-sam") == "sha256:8ddf5ac0fd5aa9823d5b06efdc3717edc1685084bff165101182bcc93f351aa8"


def test_a_prompt() -> None:
    assert prompt_text("Is it there?") == "### Human: Is it there?\n### Assistant:"


def test_the_embedded_model_is_small_and_knows_clinical_english_from_noise() -> None:
    """A model that knew nothing would have a perplexity of 4,096, the number of tokens, on any text."""
    assert (EMBEDDED_LM / "README.md").is_file()
    assert (EMBEDDED_LM / "model.safetensors").stat().st_size < 6_500_000
    loaded = load_language_model("consilia-lm", None, {})
    assert sum(weight.numel() for weight in loaded.model.parameters()) == 3_000_384
    sentence = "The aim of this study was to determine whether patients treated with surgery had a higher risk."
    words = sentence.split()
    perplexity = {}
    for name, text in (("sentence", sentence), ("shuffled", " ".join(words[::-1]))):
        ids = torch.tensor([[loaded.tokenizer.bos_token_id, *loaded.tokenizer.encode(text, add_special_tokens=False)]])
        with torch.no_grad():
            perplexity[name] = float(loaded.model(input_ids=ids, labels=ids).loss.exp())
    assert perplexity["sentence"] < 4096 / 20
    assert perplexity["shuffled"] > 3 * perplexity["sentence"]


def test_the_embedded_model_answers_yes_or_no_and_stops() -> None:
    loaded = load_language_model("consilia-lm", None, {})
    tokenizer = loaded.tokenizer
    assert [tokenizer.encode(f" {answer}", add_special_tokens=False) for answer in ("yes", "no", "maybe")] == [
        [tokenizer.convert_tokens_to_ids(f"Ġ{answer}")] for answer in ("yes", "no", "maybe")
    ]
    prompt = prompt_text("The patients were followed for two years.\nDoes the text mention patients?")
    ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer.encode(prompt, add_special_tokens=False)]])
    with torch.no_grad():
        said = loaded.model.generate(ids, max_new_tokens=5, do_sample=False)[0, ids.shape[1] :].tolist()
    assert tokenizer.decode(said[:1]) in (" yes", " no")
    assert said[1:] == [tokenizer.eos_token_id]
    text = "Blood pressure: 120/80 mmHg, β-blocker; naïve T cells.\n"
    assert tokenizer.decode(tokenizer.encode(text)) == text
