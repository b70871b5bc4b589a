"""One update: what each option changes in it, against the update written out."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from convmixer.config import TrainConfig
from convmixer.models import ConvMixer, create_model
from convmixer.training.muon import orthogonalize
from convmixer.training.optimizers import CombinedOptimizer, build_optimizer
from convmixer.training.step import TrainStep

CPU = torch.device("cpu")


def new_step(model: ConvMixer | None = None, precision: torch.dtype = torch.float32, **fields: Any) -> TrainStep:
    torch.manual_seed(0)
    model = model or create_model("convmixer", dim=8, depth=2, kernel_size=3, engine="plain")
    step = TrainStep(model, TrainConfig(**fields), next(model.parameters()).device, precision)
    step.set_lr_scale(1.0)
    return step


def batch(count: int = 12, device: torch.device = CPU) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 3, 8, 8, generator=generator)
    return images.to(device), torch.randint(10, (count,), generator=generator).to(device)


def moved(step: TrainStep, updates: int = 1) -> dict[str, torch.Tensor]:
    """How far each parameter is from where it was after some updates with the same batch."""
    before = {name: parameter.detach().clone() for name, parameter in step.model.named_parameters()}
    for _ in range(updates):
        step(*batch())
    return {name: parameter.detach() - before[name] for name, parameter in step.model.named_parameters()}


def test_what_it_returns() -> None:
    step = new_step(label_smoothing=0.2)
    images, labels = batch()
    with torch.no_grad():
        logits = copy.deepcopy(step.model)(images)
    loss, correct = step(images, labels)
    assert loss == F.cross_entropy(logits, labels, label_smoothing=0.2)
    assert correct == (logits.argmax(1) == labels).sum()


def test_probabilities_of_the_classes_are_targets_too() -> None:
    images, labels = batch()
    hard, soft = (new_step(label_smoothing=0.1) for _ in range(2))
    assert torch.allclose(hard(images, labels), soft(images, F.one_hot(labels, 10).float()), rtol=1e-6)
    mixed = 0.7 * F.one_hot(labels, 10).float() + 0.3 * F.one_hot(labels.flip(0), 10).float()
    model = copy.deepcopy(hard.model)
    with torch.no_grad():
        logits = model(images)
    loss, correct = hard(images, mixed)
    smooth = 0.9 * mixed + 0.1 / 10
    assert loss.item() == pytest.approx(-(smooth * logits.log_softmax(1)).sum(1).mean().item(), rel=1e-5)
    assert correct == (logits.argmax(1) == mixed.argmax(1)).sum()


@pytest.mark.parametrize("schedule_factor", [0.0, 0.5])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_the_factor_scales_every_groups_rate(optimizer: str, schedule_factor: float) -> None:
    step = new_step(optimizer=optimizer, lr=0.1, muon_lr=0.3, weight_decay=0.1)
    step.set_lr_scale(schedule_factor)
    rates = {group["lr"] for group in step.optimizer.param_groups}
    assert rates == {peak * schedule_factor for peak in ((0.1, 0.3) if optimizer == "muon" else (0.1,))}
    still = [bool((change == 0).all()) for change in moved(step).values()]
    assert all(still) if schedule_factor == 0 else not any(still)


@pytest.mark.parametrize("momentum", [0.0, 0.7])
def test_sgd_is_written_out(momentum: float) -> None:
    step = new_step(optimizer="sgd", lr=0.1, momentum=momentum, weight_decay=0.01, clip_norm=0.0)
    model = copy.deepcopy(step.model)
    buffers = [torch.zeros_like(p) for p in model.parameters()]
    for _ in range(3):
        images, labels = batch()
        step(images, labels)
        parameters = list(model.parameters())
        gradients = torch.autograd.grad(F.cross_entropy(model(images), labels), parameters)
        for parameter, gradient, buffer in zip(parameters, gradients, buffers, strict=True):
            with torch.no_grad():
                gradient = gradient + 0.01 * parameter
                buffer.mul_(momentum).add_(gradient)
                parameter.sub_(0.1 * (gradient + momentum * buffer))
    for ours, expected in zip(step.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, expected)


def test_muon_takes_what_mixes_channels_and_adamw_the_rest() -> None:
    fields: dict[str, Any] = {"lr": 1e-3, "muon_lr": 0.1, "weight_decay": 0.0, "clip_norm": 0.0}
    steps = [new_step(optimizer=name, **fields) for name in ("muon", "adamw")]
    by_muon, by_adamw = map(moved, steps)
    gradients: dict[str, Any] = {name: parameter.grad for name, parameter in steps[1].model.named_parameters()}
    for name, change in by_muon.items():
        expected = by_adamw[name]
        if name in ("stem.0.weight", "blocks.0.1.weight", "blocks.1.1.weight"):
            matrix = gradients[name].flatten(1)  # the first momentum points where the gradient does
            length = 0.1 * max(1.0, len(matrix) / matrix.shape[1]) ** 0.5
            expected = -length * orthogonalize(matrix[None]).view_as(change)
        torch.testing.assert_close(change, expected, rtol=1e-3, atol=1e-5)


def test_muon_takes_the_patches_of_grey_images_but_no_depthwise_kernel() -> None:
    model = create_model("convmixer", in_channels=1, dim=8, depth=1, kernel_size=3)
    optimizer = build_optimizer(model, TrainConfig(optimizer="muon"))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = [group for group in optimizer.param_groups if "betas" not in group]
    taken = {names[id(parameter)] for group in groups for parameter in group["params"]}
    assert taken == {"stem.0.weight", "blocks.0.1.weight"}


@pytest.mark.parametrize("variant", [{"head": "rh"}, {"head": "lc"}, {"branch": "bottleneck"}])
def test_muon_trains_every_variant(variant: dict[str, str]) -> None:
    model = create_model("convmixer", **variant, dim=8, depth=2, kernel_size=1, engine="plain")
    step = new_step(model, optimizer="muon")
    losses = [step(*batch())[0].item() for _ in range(20)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("decay_norms", [True, False])
def test_decay_of_norms(optimizer: str, decay_norms: bool) -> None:
    """Decoupled decay adds -lr × decay × weight to a step, and to nothing else."""
    fields: dict[str, Any] = {"optimizer": optimizer, "lr": 0.01, "muon_lr": 0.01, "decay_norms": decay_norms}
    start = dict(new_step().model.named_parameters())
    with_decay, without = (moved(new_step(**fields, weight_decay=decay)) for decay in (0.5, 0.0))
    for name, weight in start.items():
        expected = -0.01 * 0.5 * weight.detach() if decay_norms or weight.dim() > 1 else torch.zeros_like(weight)
        torch.testing.assert_close(with_decay[name] - without[name], expected, rtol=1e-4, atol=1e-6)


def test_clipping_limits_the_gradient_of_all_parameters_together() -> None:
    for clip, factor in ((1e-3, None), (0.0, 1.0), (1e6, 1.0)):
        change = moved(new_step(optimizer="sgd", lr=1.0, momentum=0.0, weight_decay=0.0, clip_norm=clip))
        free = moved(new_step(optimizer="sgd", lr=1.0, momentum=0.0, weight_decay=0.0, clip_norm=0.0))
        norm, free_norm = (torch.cat([t.flatten() for t in c.values()]).norm().item() for c in (change, free))
        assert norm == pytest.approx(clip if factor is None else free_norm * factor, rel=1e-3)


@pytest.mark.parametrize("parts", [1, 3, 5])
def test_accumulated_parts_have_the_gradient_of_the_whole(parts: int) -> None:
    """In evaluation mode normalisations use running statistics, so that the parts do not interact."""
    whole, split = new_step(optimizer="sgd", momentum=0.0), new_step(optimizer="sgd", momentum=0.0, accumulate=parts)
    for step in (whole, split):
        step.model.eval()
    assert torch.allclose(whole(*batch()), split(*batch()))
    for a, b in zip(whole.parameters, split.parameters, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)


def test_in_training_the_statistics_are_those_of_a_part() -> None:
    whole, split = new_step(), new_step(accumulate=2)
    whole(*batch())
    split(*batch())
    counts = [step.model.state_dict()["stem.2.num_batches_tracked"] for step in (whole, split)]
    assert counts == [1, 2]


def test_the_average_follows() -> None:
    step = new_step(ema_decay=0.9)
    assert step.ema is not None
    moved(step, 3)
    assert step.ema.updates == 3
    assert not torch.equal(step.ema.model.head.weight, step.model.head.weight)
    assert new_step().ema is None


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_it_goes_on_from_its_state(optimizer: str) -> None:
    fields: dict[str, Any] = {"optimizer": optimizer, "ema_decay": 0.9, "decay_norms": False}
    whole = new_step(**fields)
    moved(whole, 3)
    state = copy.deepcopy(whole.state_dict())
    moved(whole, 3)
    torch.manual_seed(5)
    again = new_step(create_model("convmixer", dim=8, depth=2, kernel_size=3, engine="plain"), **fields)
    again.load_state_dict(state)
    again.set_lr_scale(1.0)
    moved(again, 3)
    for step_state in ("model", "average"):
        ours, theirs = again.state_dict()[step_state], whole.state_dict()[step_state]
        if step_state == "average":
            ours, theirs = ours["model"], theirs["model"]
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_step_that_is_not_finite_anywhere_is_skipped_everywhere() -> None:
    """Under a GradScaler; the parts of a joint optimiser do not decide each by itself."""
    step = new_step(optimizer="muon")
    assert isinstance(step.optimizer, CombinedOptimizer)
    moved(step)
    before = copy.deepcopy(step.model.state_dict())
    gradient = step.model.head.get_parameter("weight").grad
    assert gradient is not None
    gradient.fill_(float("inf"))
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(torch.zeros(()))
    scaler.unscale_(step.optimizer)
    scaler.step(step.optimizer)
    assert all(torch.equal(tensor, before[name]) for name, tensor in step.model.state_dict().items())


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_on_cuda_an_update_does_not_wait_and_learns(optimizer: str, precision: torch.dtype) -> None:
    device = torch.device("cuda")
    model = create_model("convmixer", dim=32, depth=2, kernel_size=3, engine="plain").to(device)
    step = new_step(model, precision, optimizer=optimizer, ema_decay=0.9, decay_norms=False, accumulate=2)
    images, labels = batch(64, device)
    losses = [step(images, labels)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(30):
            step.set_lr_scale(0.5)
            losses.append(step(images, labels))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert losses[-1][0].item() < 0.5 * losses[0][0].item()


@pytest.mark.gpu
@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_on_cuda_a_captured_update_is_the_update(optimizer: str) -> None:
    device = torch.device("cuda")
    fields: dict[str, Any] = {"optimizer": optimizer, "ema_decay": 0.9, "lr": 1e-3, "muon_lr": 1e-3}
    models = [create_model("convmixer", dim=32, depth=2, kernel_size=3, engine="plain").to(device) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    eager, captured = (new_step(model, torch.bfloat16, **fields) for model in models)
    images, labels = batch(64, device)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            eager(images, labels)
            captured(images, labels)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        result = captured(images, labels)
    for factor in (1.0, 0.5, 0.1):
        captured.set_lr_scale(factor)
        eager.set_lr_scale(factor)
        graph.replay()
        assert torch.allclose(eager(images, labels), result, rtol=1e-2)
    for a, b in zip(eager.parameters, captured.parameters, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)
