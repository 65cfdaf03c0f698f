"""The injection: its plan, its steps against AdamW written out, and that an interrupted one goes on unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from consilia.core.checkpoint import CheckpointStore
from consilia.core.determinism import seeded, state_digest
from consilia.core.errors import RunFailed, TrainingStopped
from consilia.core.stop import never
from consilia.methods.fedkim.cases import Cases
from consilia.methods.fedkim.config import InjectionConfig
from consilia.methods.fedkim.injected import InjectedModel
from consilia.methods.fedkim.injection import Injection, injection_store, plan
from tests.methods.fedkim.clinic import cases, gradients, injected

pytestmark = pytest.mark.slow

PUBLIC = {"mass": cases("mass", 7), "kidney": cases("kidney", 5)}


def silent(step: int, steps: int) -> None:
    """Nobody to tell."""


def injection(model: InjectedModel, config: InjectionConfig, should_stop: Any = never, **planned: Any) -> Injection:
    order = planned.get("planned", plan(PUBLIC, config, 3, "injection", 1))
    return Injection(model, PUBLIC, config, order, should_stop)


def trained(config: InjectionConfig, store: CheckpointStore | None = None, key: str = "k") -> tuple[Any, str]:
    model = injected()
    found = injection(model, config)
    found.run(store, key, 3, silent)
    return found, state_digest(model.tensors())


def stopping(steps: int) -> Any:
    """True from the given step on."""
    asked = iter(range(1000))
    return lambda: next(asked) >= steps


# ---- the plan ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epochs", [1, 3])
def test_every_epoch_takes_each_case_once(epochs: int) -> None:
    planned = plan(PUBLIC, InjectionConfig(epochs=epochs, batch_size=3), 0)
    each = len(planned) // epochs
    assert each == 4  # 7 cases are 3 and 4 (nobody is left alone), 5 cases are 3 and 2
    for epoch in range(epochs):
        part = planned[epoch * each : (epoch + 1) * each]
        for task, found in PUBLIC.items():
            assert sorted(i for name, indices in part if name == task for i in indices.tolist()) == [*range(len(found))]


def test_a_cap_draws_other_cases_in_every_epoch() -> None:
    planned = plan({"mass": cases("mass", 50)}, InjectionConfig(epochs=4, batch_size=2, cases=4), 0)
    drawn = [frozenset(i for _, indices in planned[e : e + 2] for i in indices.tolist()) for e in range(0, 8, 2)]
    assert [len(found) for found in drawn] == [4] * 4
    assert len(set(drawn)) > 1


def test_the_tasks_are_mixed_and_the_plan_is_the_seeds() -> None:
    config = InjectionConfig(epochs=1, batch_size=1)
    public = {"mass": cases("mass", 20), "kidney": cases("kidney", 20)}
    first, again, other = (plan(public, config, seed, "injection", 1) for seed in (3, 3, 4))
    names = ["".join(task[0] for task, _ in found) for found in (first, again, other)]
    assert names[0] == names[1] != names[2]
    assert "mk" in names[0].replace("mkm", "")
    assert "km" in names[0]
    assert [i.tolist() for _, i in first] == [i.tolist() for _, i in again]


def test_a_task_without_cases_is_left_out() -> None:
    empty = {**PUBLIC, "size": cases("size", 3).take(torch.zeros(0, dtype=torch.int64))}
    assert {task for task, _ in plan(empty, InjectionConfig(), 0)} == {"mass", "kidney"}


@pytest.mark.parametrize(
    ("warmup", "steps", "expected"),
    [
        (0.0, 4, [1, 3 / 4, 2 / 4, 1 / 4]),
        (0.5, 4, [1 / 3, 2 / 3, 1, 1 / 2]),
        (0.1, 5, [1 / 2, 1, 3 / 4, 2 / 4, 1 / 4]),  # a tenth of five steps is one
        (0.9, 2, [1 / 3, 2 / 3]),
    ],
)
def test_warm_up_and_decay(warmup: float, steps: int, expected: list[float]) -> None:
    config = InjectionConfig(warmup=warmup, learning_rate=0.5, encoder_learning_rate=0.1)
    planned = [("mass", torch.tensor([0]))] * steps
    found = injection(injected(adapter="none"), config, planned=planned)
    rates = []
    for task, indices in planned:
        found._one_step(task, indices)
        found.step += 1
        rates.append([group["lr"] for group in found._optimiser.param_groups])
    torch.testing.assert_close(torch.tensor(rates), torch.tensor([[0.1 * f, 0.5 * f] for f in expected]))


# ---- a step --------------------------------------------------------------------------------------------------------


def test_two_steps_are_adamw_on_the_mean_over_answer_tokens() -> None:
    config = InjectionConfig(learning_rate=0.01, encoder_learning_rate=0.003, warmup=0, gradient_clip=0.5)
    planned = [("mass", torch.tensor([0, 2, 3])), ("kidney", torch.tensor([1, 4]))]
    model, twin = injected(), injected()
    found = injection(model, config, planned=planned)
    found.run(None, "k", 3, silent)
    moments: dict[str, list[Any]] = {}
    losses, certain = {}, {name: torch.ones_like(p, dtype=torch.bool) for name, p in twin.trained().items()}
    for step, (task, indices) in enumerate(planned):
        with seeded(3, "injection noise", "k", step):
            loss, tokens = twin.train().loss(PUBLIC[task].take(indices))
            assert tokens == 2 * len(indices)  # the answer and the end
            (loss / tokens).backward()
        losses[task] = float(loss.detach()) / tokens
        own = gradients(twin)
        norm = torch.stack([gradient.norm() for gradient in own.values()]).norm()
        rate = (1.0, 0.5)[step]
        with torch.no_grad():
            for name, parameter in twin.trained().items():
                if name not in own:
                    continue  # such as the encoders of another modality: not even decay touches them
                # Where a gradient is 0 but for rounding (biases of keys), AdamW makes much of what is left.
                certain[name] &= own[name].abs() > 1e-5
                gradient = own[name] * min(1.0, 0.5 / (float(norm) + 1e-6))
                first, second, times = moments.get(name, [torch.zeros_like(parameter), torch.zeros_like(parameter), 0])
                first, second, times = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2, times + 1
                moments[name] = [first, second, times]
                lr = rate * (0.003 if name.startswith("extractor.") else 0.01)
                change = (first / (1 - 0.9**times)) / ((second / (1 - 0.999**times)).sqrt() + 1e-8)
                parameter.copy_(parameter * (1 - lr * 1e-4) - lr * change)
        twin.zero_grad(set_to_none=True)
    for name, parameter in twin.trained().items():
        kept = certain[name]
        torch.testing.assert_close(model.trained()[name][kept], parameter[kept], atol=2e-5, rtol=1e-4, msg=name)
    assert sum(int(kept.sum()) for kept in certain.values()) > 3000
    assert found.mean_losses() == pytest.approx(losses, rel=1e-5)


def test_the_language_model_heads_and_other_encoders_stay_bit_for_bit() -> None:
    model = injected()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    injection(model, InjectionConfig(learning_rate=0.01, batch_size=3)).run(None, "k", 3, silent)
    after, names = model.state_dict(), set(model.trained())
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed <= names
    unread = {name for name in names if ".table." in name}
    assert unread
    # The router's key bias has no effect on the gates, so its gradient is rounding alone.
    assert names - changed <= unread | {name for name in names if "router.key.bias" in name}


def test_a_batch_in_parts_is_the_same_step() -> None:
    """Whose gradient is that of the mean over the answers' tokens, 4 times 2 and 3 times 3 and seven ends of text."""
    found: dict[int, dict[str, torch.Tensor]] = {}
    for accumulate in (1, 4):
        model = injected()
        own = injection(model, InjectionConfig(accumulate=accumulate, gradient_clip=1e9), planned=[])
        kept: dict[str, torch.Tensor] = {}
        own._optimiser.step = lambda kept=kept, model=model: kept.update(gradients(model))  # type: ignore[assignment]
        # Without dropout, whose noise is drawn part by part; answers of unlike length.
        model.train = lambda mode=True, model=model: model  # type: ignore[assignment, misc]
        own.public = {"side": cases("side", 7)}
        own._one_step("side", torch.arange(7))
        found[accumulate] = kept
    twin = injected()
    (twin.loss(cases("side", 7))[0] / (4 * 2 + 3 * 3 + 7)).backward()
    assert found[1].keys() == found[4].keys() == gradients(twin).keys()
    for name, gradient in gradients(twin).items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-5, rtol=1e-4, msg=name)
    for name, gradient in found[1].items():
        torch.testing.assert_close(found[4][name], gradient, atol=1e-5, rtol=1e-4, msg=name)


def test_no_gradient_is_left_behind() -> None:
    model = injected()
    injection(model, InjectionConfig(batch_size=4)).run(None, "k", 3, silent)
    assert gradients(model) == {}
    assert not model.training


@pytest.mark.parametrize("precision", ["bfloat16"])
def test_half_precision_differs_a_little(precision: Any) -> None:
    common: dict[str, Any] = {"batch_size": 4, "learning_rate": 1e-3}
    single, whole = trained(InjectionConfig(**common))
    half, rounded = trained(InjectionConfig(precision=precision, **common))
    assert whole != rounded
    assert half.mean_losses() == pytest.approx(single.mean_losses(), rel=0.05)
    assert {parameter.dtype for parameter in half.model.trained().values()} == {torch.float32}


def test_a_loss_that_is_no_number_ends_the_run_by_name() -> None:
    model = injected()
    with torch.no_grad():
        model.aligner["image"].bias.fill_(float("nan"))
    own = injection(model, InjectionConfig(), planned=[("mass", torch.tensor([0, 1]))])
    with pytest.raises(RunFailed, match=r"step 1, task mass: the loss is nan"):
        own.run(None, "k", 3, silent)


# ---- interruption --------------------------------------------------------------------------------------------------

STEADY = InjectionConfig(batch_size=3, epochs=2, learning_rate=0.01, checkpoint_steps=3)


@pytest.mark.parametrize("stop", [3, 5, 7])
def test_an_interrupted_injection_goes_on_bit_for_bit(tmp_path: Path, stop: int) -> None:
    unbroken, whole = trained(STEADY)
    assert len(unbroken.planned) == 8
    store = injection_store(tmp_path)
    with pytest.raises(TrainingStopped):
        injection(injected(), STEADY, stopping(stop)).run(store, "k", 3, silent)
    assert store.load().state["step"] == stop // 3 * 3
    model = injected()
    resumed = injection(model, STEADY)
    asked = []
    resumed.should_stop = lambda: bool(asked.append(resumed.step))
    resumed.run(store, "k", 3, silent)
    assert asked == [*range(stop // 3 * 3, 8)]
    assert state_digest(model.tensors()) == whole
    assert resumed.losses == unbroken.losses


def test_dropout_of_the_series_encoders_is_in_the_steps() -> None:
    # Else the test above would not say that its noise is drawn again.
    model = injected()
    with seeded(0, "a"):
        first = model.train().loss(PUBLIC["kidney"])[0]
        assert not torch.equal(first, model.loss(PUBLIC["kidney"])[0])


def test_a_checkpoint_of_another_injection_is_left_aside(tmp_path: Path) -> None:
    _, whole = trained(STEADY)
    store = injection_store(tmp_path)
    with pytest.raises(TrainingStopped):
        injection(injected(), STEADY, stopping(4)).run(store, "another", 9, silent)
    _, found = trained(STEADY, store)
    assert found == whole


def test_a_later_injections_checkpoint_holds_its_own_tensors(tmp_path: Path) -> None:
    """Both are at step 3 when they save; the second is interrupted right behind it."""
    store = injection_store(tmp_path)
    first = injected()
    with pytest.raises(TrainingStopped):
        injection(first, STEADY, stopping(4)).run(store, "round 1", 3, silent)
    second = injected()
    with torch.no_grad():
        second.aligner["image"].bias.fill_(1.0)
    start = second.tensors()
    with pytest.raises(TrainingStopped):
        injection(second, STEADY, stopping(3)).run(store, "round 2", 3, silent)
    kept = store.load()
    assert (kept.state["key"], kept.state["step"]) == ("round 2", 3)
    assert state_digest(kept.models["trained"]) == state_digest(second.tensors()) != state_digest(start)


def test_stopped_before_the_first_checkpoint_leaves_none(tmp_path: Path) -> None:
    store = injection_store(tmp_path)
    with pytest.raises(TrainingStopped):
        injection(injected(), STEADY, stopping(2)).run(store, "k", 3, silent)
    assert not store.exists()


def test_two_runs_give_the_same_bytes_and_another_seed_others() -> None:
    config = InjectionConfig(batch_size=4)
    assert trained(config)[1] == trained(config)[1]
    model = injected()
    injection(model, config).run(None, "k", 4, silent)  # other noise
    assert state_digest(model.tensors()) != trained(config)[1]


def test_progress_is_told_now_and_then() -> None:
    told: list[tuple[int, int]] = []
    model = injected(adapter="none")
    planned = [("mass", torch.tensor([0]))] * 51
    injection(model, InjectionConfig(), planned=planned).run(None, "k", 3, lambda *step: told.append(step))
    assert told == [(25, 51), (50, 51)]


def test_learning_lowers_the_loss() -> None:
    public: dict[str, Cases] = {"mass": cases("mass", 12)}
    assert public["mass"].inputs is not None
    public["mass"].inputs.add_(3.0 * (public["mass"].truth * 2 - 1)[:, None, None, None])
    model = injected(random=False)
    config = InjectionConfig(epochs=12, batch_size=6, learning_rate=0.02)
    own = Injection(model, public, config, plan(public, config, 0), never)
    own.run(None, "k", 0, silent)
    assert sum(own.losses["mass"][-4:]) < 0.7 * sum(own.losses["mass"][:4])
