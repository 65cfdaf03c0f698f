from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import prompts
from benchmarks.paper_size import SIZES, Size, counts, cpu_step, in_bf16
from benchmarks.prompts import (
    CLASSIFICATION,
    INPUT_GRADIENT,
    RATIOS,
    input_gradient,
    interleaved,
    time_measurements,
    training_step,
)
from benchmarks.tables import TABLES, labels_of, load, tables
from consilia.core.errors import ConfigError
from consilia.models.prompted_vit import PromptedViT
from consilia.study.study import load_study
from tests.evaluation.records import RUN
from tests.models.support import SMALL_SAM, SMALL_VIT, small_vit

REPOSITORY = Path(__file__).parents[2]
MIDDLE_SAM = {
    "model_type": "sam",
    "initializer_range": 0.02,
    "vision_config": {
        "initializer_range": 0.02,
        "image_size": 256,
        "hidden_size": 192,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "mlp_dim": 768,
        # 16 = 14 + 2: the window leaves a remainder, as in the real one.
        "window_size": 14,
        "global_attn_indexes": [1, 3],
    },
    "prompt_encoder_config": {"image_size": 256},
}


def test_a_training_step_is_adamw_on_what_is_trained() -> None:
    torch.manual_seed(0)
    model = PromptedViT(small_vit(), 2, prompt_length=3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    inputs, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 1, 0])
    training_step(model, "classification", inputs, labels)()
    weight = model.head.weight
    assert weight.grad is not None
    # AdamW's first step: the gradient's sign times the rate, after decay.
    moved = before["head.weight"] * (1 - 1e-4 * 0.01) - 1e-4 * weight.grad / (weight.grad.abs() + 1e-8)
    torch.testing.assert_close(weight.detach(), moved, rtol=1e-5, atol=1e-8)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items() if "backbone" in name)


def test_the_baseline_goes_through_the_blocks_and_back() -> None:
    backbone = small_vit()
    seen: list[Any] = []
    backbone.blocks.register_forward_hook(lambda module, given, out: seen.append(given[0]))
    input_gradient(backbone, 2, 3)()
    (tokens,) = seen
    assert tokens.shape == (2, 16 + 1 + 3, 24)
    # By a second way: the same sum's gradient, through timm's own path for features.
    again = tokens.detach().clone().requires_grad_()
    backbone.norm(backbone.blocks(again))[:, 0].sum().backward()
    torch.testing.assert_close(tokens.grad, again.grad)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_steps_are_taken_in_turn_and_three_rounds_left_out() -> None:
    order: list[str] = []
    seconds = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    assert "".join(order) == "ab" * 5
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}


def test_ratios_are_medians_within_repeats() -> None:
    names = {name for pair in RATIOS[CLASSIFICATION] for name in pair}
    seconds = {name: [1.0, 2.0, 10.0] for name in names}
    seconds[INPUT_GRADIENT] = [1.0, 1.0, 20.0]
    found = {measurement.name: measurement for measurement in time_measurements(CLASSIFICATION, seconds)}
    ratio = found[f"{CLASSIFICATION}: fedgpl / {INPUT_GRADIENT}"]
    # 1, 2 and 0.5; the ratio of the medians would be 2.
    assert (ratio.value, ratio.bound, ratio.holds) == (1.0, 1.1, True)
    assert found[f"{CLASSIFICATION}: fedgpl"].value == 2000
    slow = found[f"{CLASSIFICATION}: fedgpl / full fine-tuning"]
    assert slow.value == 1.0
    assert slow.holds is False


# Half a minute at the studies' own sizes; what it is made of is shown above on small models.
@pytest.mark.long
@pytest.mark.slow
def test_the_command_writes_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What is counted does not depend on the batches; only the seconds do.
    monkeypatch.setattr(prompts, "VIT_BATCH", 2)
    monkeypatch.setattr(prompts, "SAM_BATCH", 1)
    out = tmp_path / "prompts.json"
    prompts.main(["--repeats", "1", "--out", str(out)])
    content = json.loads(out.read_text())
    named = {measurement["name"]: measurement for measurement in content["measurements"]}
    # P 10 x 128; W_q 64 + 1; W_k, W_v 128 x 128 + 128 each; W_o 128 x 1280 + 1280; head 128 + 1 per class.
    classes = load_study(CLASSIFICATION).run["model"]["args"]["num_classes"]
    trained = 1280 + 65 + 2 * 16_512 + 165_120 + 129 * classes
    for dtype, size in (("float32", 4), ("float16", 2)):
        assert named[f"{CLASSIFICATION}: trained, {dtype}"]["value"] == size * trained
        sent = named[f"{CLASSIFICATION}: sent up per site and round, {dtype}"]
        assert size * trained < sent["value"]
        assert sent["holds"]


# Size of the paper ---------------------------------------------------------------------------------------------------


def frozen_stays_and_trained_has_gradients(size: Size) -> nn.Module:
    model = size.model()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    training_step(model, size.task, *size.cases())()
    still = set()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert torch.equal(before[name], parameter), name
            assert parameter.grad is None, name
        elif parameter.grad is None or not parameter.grad.abs().max() > 0:
            still.add(name)
    # What only SAM's first pass uses gets no gradient; a key's bias shifts all of a softmax's scores alike.
    silent = ("iou_prediction_head", "output_hypernetworks_mlps", "k_proj.bias", "key_projection.bias")
    assert all(any(part in name for part in silent) for name in still), still
    return model


@pytest.mark.slow
def test_a_step_of_the_real_vit() -> None:
    size = Size("classification", SIZES["vit"].config, 224, 2)
    model = frozen_stays_and_trained_has_gradients(size)
    assert counts(model) == {"trained": SIZES["vit"].trained, "foundation": 85_798_656}


@pytest.mark.slow
def test_a_step_of_a_middle_sized_sam() -> None:
    model = frozen_stays_and_trained_has_gradients(Size("segmentation", MIDDLE_SAM, 256, 1))
    # P 16 x 192; W_q 256 x 16 + 16; W_k, W_v and W_o 192 x 192 + 192; the decoder is the real one.
    assert counts(model)["trained"] == 3072 + 4112 + 3 * 37_056 + 4_058_340


@pytest.mark.parametrize(
    "size",
    [Size("classification", SMALL_VIT, 32, 2), Size("segmentation", SMALL_SAM, 64, 2)],
    ids=["classification", "segmentation"],
)
def test_steps_under_bf16_and_their_memory(size: Size) -> None:
    found = cpu_step(size)
    assert found["peak_bytes"] > 4 * found["foundation"]
    model = size.model()
    head = next(value for name, value in model.named_parameters() if value.requires_grad and value.ndim > 1)
    before = head.detach().clone()
    training_step(model, size.task, *size.cases(), network=in_bf16(model, "cpu"))()
    assert head.dtype == torch.float32
    assert not torch.equal(before, head)
    assert torch.isfinite(head).all()


# Tables --------------------------------------------------------------------------------------------------------------


def compact(label: str, seed: int, started: str, summary: dict[str, Any], **run: Any) -> dict[str, Any]:
    named = {"id": f"{label}{seed}", "name": f"{label}-seed{seed}", "method": label, "label": label, "seed": seed}
    return {"run": {**RUN, **named, "started": started, **run}, "summary": summary}


def segmented(dice: float, sent: float | None, query: float | None) -> dict[str, Any]:
    final = {f"global_dice_{setting}": dice for setting in ("box", "image", "jitter")}
    final |= {"global_iou_box": dice / 2, "global_hd95_box": 3.0, "personal_dice_box": dice + 0.05}
    final |= {"version": 3, "worst_site": None, "worst_site_global": {"site": "a", "dice": dice}}
    differences = {"dice_box_difference": query, "dice_image_difference": None if query is None else -query}
    traffic = {"mean": sent, "max": sent, "total": 0}
    return {
        "last": {**final, "mean_query": None if query is None else {"sites": 1, **differences}},
        "best": final,
        "over_rounds": {"versions": 3, "rounds_to_within_1_percent": None if sent is None else 3},
        "bytes": {"down": traffic, "up": traffic},
        "seconds": {"run": 1.0},
        "individuality": {"first": None if query is None else 2.5e-5, "last": None if query is None else 0.25},
    }


def written(folder: Path, records: list[dict[str, Any]]) -> Path:
    folder.mkdir()
    for record in records:
        (folder / f"{record['run']['name']}.json").write_text(json.dumps(record))
    return folder


def test_tables_of_a_segmentation(tmp_path: Path) -> None:
    task = "segmentation"
    records = [
        compact("filled-box", 0, "2026-01-01", segmented(0.6, None, None), task=task),
        compact("fedgpl", 0, "2026-01-03", segmented(0.8, 1_000_000, -0.01), task=task),
        compact("fedgpl", 1, "2026-01-02", segmented(0.9, 2_000_000, -0.03), task=task),
    ]
    found = tables(load(written(tmp_path / "mine", records)))
    assert list(found) == [*TABLES["segmentation"], "Rounds, bytes and prompts"]
    last = found["Last round"].splitlines()
    assert last[0].split(" | ")[2:5] == [
        "Dice, global, true box",
        "Dice, global, whole image",
        "Dice, global, jittered box",
    ]
    # Means by hand; sample standard deviation of 0.8 and 0.9 is 0.1 / sqrt(2).
    assert last[2].startswith("| filled-box | 1 | 0.600 |")
    assert last[3] == (
        "| fedgpl | 2 | 0.850 ± 0.071 | 0.850 ± 0.071 | 0.850 ± 0.071 | 0.425 ± 0.035 | 3.00 ± 0.00 | 0.900 ± 0.071 |"
    )
    costs = found["Rounds, bytes and prompts"].splitlines()
    assert costs[2:] == [
        "| fedgpl | 2 | 3 ± 0 | 1.500 ± 0.707 | −0.020 ± 0.014 | +0.020 ± 0.014 | 2.5e-05 ± 0 | 0.25 ± 0 |"
    ]


def test_rows_are_in_the_studys_order(tmp_path: Path) -> None:
    records = [
        compact(label, 0, f"2026-01-0{day}", segmented(0.5, None, None), task="segmentation")
        for day, label in enumerate(("other", "filled-box", "lora", "fedgpl"), start=1)
    ]
    by_time = [run.label for run, _ in load(written(tmp_path / "mine", records))]
    assert by_time == ["other", "filled-box", "lora", "fedgpl"]
    named = load(written(tmp_path / "fedgpl-segmentation", records))
    assert [run.label for run, _ in named] == ["fedgpl", "lora", "filled-box", "other"]
    assert load(tmp_path / "mine", "fedgpl-segmentation") == named
    with pytest.raises(ConfigError, match="no study file nothing"):
        load(tmp_path / "mine", "nothing")


@pytest.mark.parametrize("study", ["busbra", "pneumoniamnist"])
def test_tables_in_the_documentation_are_those_of_the_records(study: str) -> None:
    assert labels_of(study)[0] == "fedavg"
    text = (REPOSITORY / "docs" / "results" / "fedkper.md").read_text()
    found = tables(load(REPOSITORY / "docs" / "results" / study))
    assert list(found) == list(TABLES["classification"])
    for title, table in found.items():
        assert table in text, title
