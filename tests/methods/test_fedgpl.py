"""Fed-GPL at a site and over rounds: what moves, what stays, what is watched."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from consilia.core.determinism import derive_seed, state_digest
from consilia.core.errors import ConfigError
from consilia.data.dataset import DatasetSplits, SiteData, Split
from consilia.methods import Client, Round, TrainingConfig
from consilia.methods.fedgpl.method import MEAN_PROMPT
from consilia.methods.tasks.segmentation import mask_loss, training_prompts
from consilia.models.exchange import exchanged_state
from consilia.models.mlp import MLP
from consilia.models.prompt_generator import prompt_diversity
from consilia.models.prompted_sam import PromptedSam
from consilia.models.prompted_vit import PromptedViT
from consilia.models.tuned import TunedSam, TunedViT
from tests.methods import support
from tests.models.support import small_sam, small_vit

TRAINING = TrainingConfig(
    local_epochs=2, batch_size=3, optimiser="adamw", learning_rate=1e-3, weight_decay=0.01, device="cpu"
)


def pictures(task: Any = "classification", cases: int = 7) -> SiteData:
    order = torch.Generator().manual_seed(0)
    size = 32 if task == "classification" else 64
    inputs = torch.randn(cases, 3, size, size, generator=order)
    labels = torch.arange(cases) % 2
    if task == "segmentation":
        labels = torch.zeros(cases, size, size, dtype=torch.uint8)
        labels[:, 10:40, 20:50] = 1
    split = Split(inputs, labels, tuple(f"case-{i}" for i in range(cases)))
    return SiteData("a", {"pictures": DatasetSplits(("x", "y"), split, split, split, task)})


def model_for(task: str, seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    if task == "classification":
        return PromptedViT(small_vit(), 2, prompt_length=3, **options)
    return PromptedSam(small_sam(), **options)


def client_of(model: Any, data: SiteData, training: TrainingConfig = TRAINING, method: str = "fedgpl") -> Client[Any]:
    return support.client_of(method, model, data, training)


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_a_round_moves_everything_exchanged_and_leaves_the_backbone_bit_identical(task: str) -> None:
    model = model_for(task)
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    start = exchanged_state(model)
    update = client_of(model, pictures(task)).train(Round(1, start))
    assert set(update.state) == set(start)
    assert not any(name in frozen for name in start)
    still = {name for name in start if torch.equal(start[name], update.state[name])}
    # What only SAM's first pass uses gets no gradient (specification 3.3: the loss is on the second pass).
    assert all("iou_prediction_head" in name or "output_hypernetworks_mlps" in name for name in still)
    for name, parameter in model.named_parameters():
        if name in frozen:
            assert torch.equal(frozen[name], parameter), name
    assert update.fields["prompt_diversity"] == pytest.approx(
        prompt_diversity(model.prompt_generator(model.patches(pictures(task).train.inputs))), rel=1e-6
    )


def test_training_is_adamw_written_out() -> None:
    """Batches from the documented seed, torch's AdamW on what is trained alone."""
    model = model_for("classification")
    start = exchanged_state(model)
    update = client_of(model, pictures()).train(Round(2, start))
    other = model_for("classification")
    rate = 1e-3 * 0.99
    optimiser = torch.optim.AdamW([p for p in other.parameters() if p.requires_grad], lr=rate, weight_decay=0.01)
    order = torch.Generator().manual_seed(derive_seed(1, "batches", "a", 2))
    data = pictures().train
    other.train()
    for _ in range(2):
        pieces = list(torch.randperm(7, generator=order).split(3))
        for index in [pieces[0], torch.cat(pieces[1:])]:  # a last batch of one joins its neighbour
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(other(data.inputs[index]), data.labels[index]).backward()
            optimiser.step()
    for name, tensor in exchanged_state(other).items():
        # Patches are embedded in other batches, and AdamW's first steps go by the sign of the gradient.
        torch.testing.assert_close(update.state[name], tensor, rtol=2e-3, atol=1e-5)


def test_segmentation_draws_its_prompts_from_the_round(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pictures("segmentation")
    model = model_for("segmentation")
    start = exchanged_state(model)
    one = TRAINING.model_copy(update={"local_epochs": 1, "batch_size": 7, "learning_rate": 1e-12})
    learner = client_of(model, data, one)
    loss = learner.train(Round(1, start)).fields["train_loss"]
    order = torch.Generator().manual_seed(derive_seed(1, "batches", "a", 1))
    index = torch.randperm(7, generator=order)
    draw = torch.Generator().manual_seed(derive_seed(1, "draw", "a", 1))
    masks = data.train.labels[index]
    with torch.no_grad():
        again = mask_loss(model(data.train.inputs[index], training_prompts(masks, draw), refine=True), masks)
    assert loss == pytest.approx(float(again), rel=1e-4)
    assert learner.train(Round(2, start)).fields["train_loss"] != loss


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_same_seed_same_bytes(task: str) -> None:
    digests = []
    for _ in range(2):
        model = model_for(task)
        learner = client_of(model, pictures(task))
        digests.append(state_digest(learner.train(Round(1, exchanged_state(model))).state))
    assert digests[0] == digests[1]


def test_mean_query_gives_every_image_the_same_prompt_and_is_taken_back() -> None:
    data = pictures()
    model = model_for("classification", generator="normalised")
    learner = client_of(model, data)
    generator = model.prompt_generator
    patches = model.patches(data.train.inputs)
    with torch.no_grad():
        mean = torch.stack([generator.query(image[None])[0] for image in patches]).mean(dim=0)
        expected = generator.prompt + generator.offset(mean[None])[0]
        before = generator(patches)
    with learner.variant(MEAN_PROMPT), torch.no_grad():
        prompts = generator(patches)
        assert prompt_diversity(prompts) < 1e-6
        torch.testing.assert_close(prompts[3], expected, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        assert torch.equal(generator(patches), before)


def test_a_model_without_generator_is_refused() -> None:
    for model in (MLP(5, 2), PromptedViT(small_vit(), 2, generator="none")):
        with pytest.raises(ConfigError, match=r"fedgpl trains a prompt generator, and .* has none"):
            client_of(model, pictures())


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_a_frozen_encoder_is_run_once_per_case(task: str) -> None:
    """Training behind a frozen encoder on kept codes gives what training through it gives."""
    data = pictures(task)

    def train(kept: bool) -> tuple[dict[str, torch.Tensor], int]:
        torch.manual_seed(3)
        model = (
            TunedViT(small_vit(), 2, tune="head") if task == "classification" else TunedSam(small_sam(), tune="decoder")
        )
        model.encoder_is_frozen = kept
        calls = []
        encode = model.encode
        model.encode = lambda images: calls.append(len(images)) or encode(images)  # type: ignore[assignment,func-returns-value]
        learner = client_of(model, data, method="fedavg")
        return dict(learner.train(Round(1, exchanged_state(model))).state), sum(calls)

    (kept, once), (through, every_time) = train(True), train(False)
    assert once == 7
    assert every_time == 14  # two epochs
    for name in kept:
        torch.testing.assert_close(kept[name], through[name], rtol=1e-4, atol=1e-6)


def test_attention_map_of_every_case() -> None:
    learner = client_of(model_for("classification"), pictures())
    shown = learner.attention(pictures().test)
    assert shown is not None
    assert shown.shape == (7, 4, 4)
