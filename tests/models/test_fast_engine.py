"""The fast engine against the plain one: variants, presets, precision, modes, fallbacks, the automatic choice."""

from __future__ import annotations

import copy
import logging
import pickle
from collections.abc import Callable
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convmixer.config import Engine
from convmixer.errors import InputError
from convmixer.kernels import dispatch, measurements, native
from convmixer.models import ConvMixer, create_model, list_models
from convmixer.models.engines import auto, fast
from convmixer.models.engines.units import as_unit, as_units

pytestmark = pytest.mark.usefixtures("one_thread")


VARIANTS = ["convmixer", "convmixer_rh", "convmixer_lc", "convmixer_bn"]


def relative(value: Tensor, expected: Tensor) -> float:
    value, expected = value.detach().double(), expected.detach().double()
    return float((value - expected).norm() / expected.norm().clamp_min(1e-12))


def pair(name: str = "convmixer", **options: Any) -> tuple[ConvMixer, ConvMixer]:
    """The same small model with either engine."""
    plain = create_model(name, engine="plain", **{"dim": 24, "depth": 2, **options})
    with torch.no_grad():  # normalisations that do something, too
        for parameter in plain.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model = copy.deepcopy(plain)
    model.set_engine("fast")
    return plain, model


def gradients(model: ConvMixer, x: Tensor, y: Tensor, bf16: bool = False, seed: int = 1) -> tuple[Tensor, list[Tensor]]:
    torch.manual_seed(seed)
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = model(x)
        loss = F.cross_entropy(logits, y)
    loss.backward()
    return logits, [p.grad.clone() for p in model.parameters() if p.grad is not None]


def at(module: Any, *path: int) -> Any:
    """The submodule at these indices."""
    for index in path:
        module = module[index]
    return module


def assert_same_training(plain: ConvMixer, model: ConvMixer, x: Tensor) -> None:
    """Within 1e-5. A gradient that is what large cancelling terms leave has to be as near to float64 as plain's, or its
    error small beside all gradients together, which is what rounding in these terms amounts to.
    """
    y = torch.arange(len(x)) % 10
    _, exact_gradients = gradients(copy.deepcopy(plain).double(), x.double(), y)
    expected, expected_gradients = gradients(plain, x, y)
    value, own = gradients(model, x, y)
    assert relative(value, expected) < 1e-5
    assert relative(torch.cat([g.flatten() for g in own]), torch.cat([g.flatten() for g in expected_gradients])) < 1e-5
    names = [name for name, _ in model.named_parameters()]
    whole = float(torch.cat([gradient.flatten() for gradient in exact_gradients]).norm())
    for name, a, b, truth in zip(names, own, expected_gradients, exact_gradients, strict=True):
        if relative(a, b) > 1e-5:
            assert float((a - truth).norm()) < 5e-6 * whole or relative(a, truth) < 3 * relative(b, truth), name
    for (name, a), b in zip(model.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize("name", VARIANTS)
def test_training_is_the_same(name: str, activation: str) -> None:
    plain, model = pair(name, activation=activation, in_channels=2, drop_path=0.3, dropout=0.2)
    x = torch.randn(6, 2, 15, 22)
    with dispatch.record() as ran:
        assert_same_training(plain, model, x)
    assert ran["act_norm_depthwise_backward", "native" if native.library() else "reference"] == 2
    with torch.no_grad():
        plain.eval(), model.eval()
        assert relative(model(x[:1]), plain(x[:1])) < 1e-5
        assert relative(model.forward_features(x), plain.forward_features(x)) < 1e-5


@pytest.mark.parametrize("name", list_models())
def test_every_preset(name: str) -> None:
    plain, model = pair(name, dim=8)
    side = 2 * plain.patch_size + 1
    assert_same_training(plain, model, torch.randn(9, 3, side, side + plain.patch_size))


@hypothesis.settings(max_examples=15, deadline=None, derandomize=True)
@hypothesis.given(
    st.integers(2, 9), st.integers(4, 19), st.integers(4, 19), st.sampled_from([3, 5, 9, 15]), st.integers(1, 3)
)
def test_any_size(images: int, height: int, width: int, kernel: int, patch: int) -> None:
    positions = images * (height // patch) * (width // patch)
    hypothesis.assume(positions > 64)  # statistics of fewer values magnify rounding
    torch.manual_seed(positions)
    plain, model = pair(kernel_size=kernel, patch_size=patch, dim=6)
    assert_same_training(plain, model, torch.randn(images, 3, height, width))


@pytest.mark.parametrize("name", ["convmixer", "convmixer_bn"])
def test_bfloat16_deviates_no_more_than_plain_autocast(name: str) -> None:
    plain, model = pair(name, dim=32, depth=4)
    exact = copy.deepcopy(plain).double()
    x, y = torch.randn(16, 3, 16, 16), torch.arange(16) % 10
    expected, expected_gradients = gradients(exact, x.double(), y)
    (own, own_gradients), (stock, stock_gradients) = (gradients(m, x, y, bf16=True) for m in (model, plain))
    assert own.dtype == stock.dtype == torch.bfloat16
    assert relative(own, expected) < 1.3 * relative(stock, expected)
    totals = [
        torch.cat([g.flatten().double() for g in gs]) for gs in (own_gradients, stock_gradients, expected_gradients)
    ]
    assert relative(totals[0], totals[2]) < 1.3 * relative(totals[1], totals[2])


def test_batch_of_one_and_bad_inputs_are_as_with_plain() -> None:
    plain, model = pair(patch_size=4)
    with pytest.raises(ValueError, match="more than 1 value"):
        plain(torch.randn(1, 3, 4, 4))
    with pytest.raises(ValueError, match="more than 1 value"):
        model(torch.randn(1, 3, 4, 4))
    for bad in (torch.randn(2, 4, 8, 8), torch.randn(2, 3, 3, 3), torch.randn(2, 3, 8, 8).double()):
        with pytest.raises(RuntimeError) as expected:
            plain(bad)
        with pytest.raises(RuntimeError) as own:
            model(bad)
        assert str(own.value) == str(expected.value)


def test_nan_reaches_the_loss() -> None:
    _, model = pair()
    x = torch.randn(4, 3, 8, 8)
    x[2, 1, 3, 3] = float("nan")
    logits, grads = gradients(model, x, torch.arange(4))
    assert logits.isnan().all()
    assert all(g.isnan().any() for g in grads)


@pytest.mark.parametrize("momentum", [0.1, 0.5, None])
@pytest.mark.parametrize("frozen", [None, "first", "all"])
def test_running_statistics_and_frozen_normalisations(momentum: float | None, frozen: str | None) -> None:
    plain, model = pair()
    for m in (plain, model):
        norms = [module for module in m.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = momentum
        for norm in norms if frozen == "all" else norms[:1] if frozen else []:
            norm.eval()
    for _ in range(3):
        assert_same_training(plain, model, torch.randn(5, 3, 10, 12))


def test_normalisation_without_running_statistics() -> None:
    plain, model = pair()
    for m in (plain, model):
        new = nn.BatchNorm2d(24, track_running_stats=False)
        new.load_state_dict({"weight": at(m.blocks, 0, 3).weight, "bias": at(m.blocks, 0, 3).bias})
        at(m.blocks, 0)[3] = new
        m.eval()
    assert_same_training(plain, model, torch.randn(5, 3, 10, 12))


@pytest.mark.parametrize("where", ["stem", "block", "branch", "activation", "pooling"])
def test_what_is_not_recognised_runs_as_it_is(where: str) -> None:
    plain, model = pair(drop_path=0.5)
    for m in (plain, model):
        if where == "stem":
            m.stem.append(nn.Conv2d(24, 24, 1))
        elif where == "block":
            at(m.blocks, 0).append(nn.Hardtanh(-0.5, 0.5))
        elif where == "branch":
            at(m.blocks, 1, 0).fn.append(nn.Softsign())
        elif where == "activation":
            at(m.blocks, 1)[2] = nn.GELU(approximate="tanh")
        else:
            m.pooling = nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten())
    plain.load_state_dict(model.state_dict())
    with dispatch.record() as ran:
        assert_same_training(plain, model, torch.randn(5, 3, 10, 12))
    assert any(implementation != "plain" for _, implementation in ran)


class OwnBatchNorm(nn.BatchNorm2d):
    """A subclass that does something else."""

    def forward(self, x: Tensor) -> Tensor:
        return 2.0 * super().forward(x)


class FrozenBatchNorm(nn.Module):
    """As torchvision's: buffers only."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.linspace(0.5, 1.5, 24)[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale - 0.1


class LayerNorm2d(nn.LayerNorm):
    """Over the channels of each position."""

    def forward(self, x: Tensor) -> Tensor:
        normalised: Tensor = super().forward(x.permute(0, 2, 3, 1))
        return normalised.permute(0, 3, 1, 2)


NORMS: dict[str, Callable[[], nn.Module]] = {
    "GroupNorm": lambda: nn.GroupNorm(4, 24),
    "LayerNorm2d": lambda: LayerNorm2d(24),
    "FrozenBatchNorm": FrozenBatchNorm,
    "OwnBatchNorm": lambda: OwnBatchNorm(24),
    "BatchNorm2d without parameters": lambda: nn.BatchNorm2d(24, affine=False),
    "Identity": nn.Identity,
}


@pytest.mark.parametrize("where", ["pointwise", "depthwise", "stem"])
@pytest.mark.parametrize("norm", NORMS)
def test_another_normalisation_leaves_the_rest_fast(norm: str, where: str, caplog: pytest.LogCaptureFixture) -> None:
    fast._log_once.cache_clear()
    plain, model = pair(depth=3, drop_path=0.3)
    for m in (plain, model):
        parent = m.stem if where == "stem" else at(m.blocks, 1)
        if where == "depthwise":
            parent = parent[0].fn
        parent[len(parent) - 1] = NORMS[norm]()
    with caplog.at_level(logging.INFO, "convmixer.models"), dispatch.record() as ran:
        assert_same_training(plain, model, torch.randn(6, 3, 10, 12))
    name = {"pointwise": "blocks.1.3", "depthwise": "blocks.1.0.fn.2", "stem": "stem.2"}[where]
    assert ran["act_norm", "plain"] == 1
    assert f"{name} ({norm.split()[0]})" in caplog.text
    assert len(caplog.records) == 1
    assert ran["act_norm_depthwise_backward", "native" if native.library() else "reference"] == 2
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert relative(model.eval()(torch.ones(2, 3, 8, 8)), plain.eval()(torch.ones(2, 3, 8, 8))) < 3e-2


def test_synchronised_normalisation() -> None:
    """In evaluation it is batch normalisation; in training, where it may exchange statistics, it runs as it is."""
    plain, model = (nn.SyncBatchNorm.convert_sync_batchnorm(m) for m in pair())
    assert not any(type(m) is nn.BatchNorm2d for m in model.modules())
    x = torch.randn(5, 3, 10, 12)
    with dispatch.record() as ran:
        assert_same_training(plain, model, x)
    assert ran["act_norm", "plain"] == 5
    assert any(operation == "depthwise" and how != "plain" for operation, how in ran)
    with torch.no_grad(), dispatch.record() as ran:
        assert relative(model.eval()(x), plain.eval()(x)) < 1e-5
    assert ran["act_norm_depthwise", "native" if native.library() else "reference"] == 2
    assert not any(how == "plain" for _, how in ran)


def test_measuring_synchronises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.SyncBatchNorm.convert_sync_batchnorm(create_model("convmixer", dim=8, depth=2))
    monkeypatch.setattr(nn.SyncBatchNorm, "forward", lambda *_: pytest.fail("synchronised"))
    assert set(auto.measure(auto.Probe(model, at(model.blocks, 0)), torch.randn(3, 3, 8, 8))) == {"plain", "fast"}
    assert type(at(model.stem, 2)) is nn.SyncBatchNorm


def test_hooks_and_pruning_are_respected() -> None:
    from torch.nn.utils import prune

    plain, model = pair()
    for m in (plain, model):
        prune.l1_unstructured(at(m.blocks, 0, 1), "weight", 0.5)
    seen: list[tuple[int, ...]] = []
    at(model.blocks, 1).register_forward_hook(lambda _module, _inputs, output: seen.append(tuple(output.shape)))
    x = torch.randn(4, 3, 8, 8)
    assert torch.equal(model(x), plain(x))
    assert seen == [(4, 24, 4, 4)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_whole_model_in_another_dtype(dtype: torch.dtype) -> None:
    plain, model = pair()
    x = torch.randn(4, 3, 8, 8).to(dtype)
    expected, value = plain.to(dtype)(x), model.to(dtype)(x)
    assert value.dtype == dtype
    assert relative(value, expected) < (1e-10 if dtype == torch.float64 else 3e-2)


def test_without_native_kernels_the_results_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "library", lambda: None)
    plain, model = pair(kernel_size=5)
    with dispatch.record() as ran:
        assert_same_training(plain, model, torch.randn(20, 3, 12, 10))
    assert {implementation for operation, implementation in ran if operation != "pointwise"} == {"reference"}
    assert {implementation for operation, implementation in ran if operation == "pointwise"} == {"product"}


def test_two_runs_are_bit_identical() -> None:
    _, model = pair("convmixer_bn", drop_path=0.2)
    x, y = torch.randn(8, 3, 16, 16), torch.arange(8)
    for bf16 in (False, True):
        first, second = (gradients(copy.deepcopy(model), x, y, bf16) for _ in range(2))
        assert torch.equal(first[0], second[0])
        assert all(torch.equal(a, b) for a, b in zip(first[1], second[1], strict=True))


def test_state_is_the_same_whatever_the_engine() -> None:
    plain, model = pair()
    assert list(plain.state_dict()) == list(model.state_dict())
    assert pickle.loads(pickle.dumps(model)).engine == "fast"
    with pytest.raises(InputError, match="'fast'"):
        model.set_engine("fats")


def test_inference_mode_and_partial_gradients() -> None:
    plain, model = pair()
    x = torch.randn(4, 3, 8, 8, requires_grad=True)
    for m in (plain, model):
        for parameter in m.stem.parameters():
            parameter.requires_grad_(False)
    (expected,) = torch.autograd.grad(plain(x).square().sum(), x)
    (own,) = torch.autograd.grad(model(x).square().sum(), x)
    assert relative(own, expected) < 1e-5
    with torch.inference_mode():
        assert relative(model.eval()(x), plain.eval()(x)) < 1e-5


@pytest.mark.parametrize("name", ["convmixer", "convmixer_rh"])
def test_gradients_of_gradients_are_refused(name: str) -> None:
    x = torch.randn(4, 3, 8, 8)
    for model in pair(name):
        first = torch.autograd.grad(model(x).square().sum(), list(model.parameters()), create_graph=True)
        again = torch.stack([gradient.square().sum() for gradient in first]).sum()
        if model.engine == "plain":
            again.backward()
        else:
            with pytest.raises(RuntimeError, match="double backward"):
                again.backward()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_export_and_compile() -> None:
    plain, model = pair()
    x = torch.randn(4, 3, 8, 8)
    exported = torch.export.export(model.eval(), (x,))
    assert relative(exported.module()(x), plain.eval()(x)) < 1e-5
    compiled = torch.compile(model.train(), backend="aot_eager", fullgraph=True)
    plain.train()
    compiled(x).square().sum().backward()
    plain(x).square().sum().backward()
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert float((a.grad - b.grad).norm()) < 1e-4 * float(b.grad.norm()) + 1e-4


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("choice", ["plain", "fast"])
def test_a_compiled_model_runs_as_auto_chose_last(choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "_known", {})
    monkeypatch.setattr(auto, "SMALL_WORK", 0)
    monkeypatch.setattr(measurements, "recall", lambda _: {"plain": 1.0, "fast": 0.5 if choice == "fast" else 2.0})
    model = create_model("convmixer", dim=8, depth=1).eval()
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        expected = model(x)
        assert model._executor.auto.last == choice
        with dispatch.record() as ran:
            assert relative(torch.compile(model, backend="eager", fullgraph=True)(x), expected) < 1e-5
    assert bool(ran) == (choice == "fast")


def test_auto_leaves_small_work_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "measure", lambda *_: pytest.fail("measured"))
    model = create_model("convmixer", dim=16, depth=2)
    assert model.engine == "auto"
    assert model.engine_for(torch.randn(4, 3, 16, 16)) == "plain"


def test_auto_measures_once_and_keeps_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "_known", {})
    calls: list[int] = []

    def measure(_: nn.Module, x: Tensor, captured: bool) -> dict[str, float]:
        calls.append(len(x))
        return {"plain": 1.0, "fast": 0.5}

    monkeypatch.setattr(auto, "measure", measure)
    model = create_model("convmixer", dim=64, depth=3)
    x = torch.randn(64, 3, 32, 32)
    assert model.engine_for(x) == model.engine_for(x) == "fast"
    monkeypatch.setattr(auto, "_known", {})
    assert model.engine_for(x) == "fast"
    assert len(calls) == 1
    assert 1 <= calls[0] <= 64
    with torch.no_grad():
        monkeypatch.setattr(measurements, "recall", lambda _: {"plain": 1.0, "fast": 0.99})
        assert model.engine_for(x) == "plain"
    hook = at(model.blocks, 0).register_forward_hook(lambda *_: None)
    assert model.engine_for(x) == "plain"
    hook.remove()
    assert model.engine_for(x) == "fast"


@pytest.mark.parametrize("gradient", [True, False])
def test_measuring_leaves_no_trace(gradient: bool) -> None:
    model = create_model("convmixer_lc", dim=16, depth=3, drop_path=0.2)
    before, x, state = copy.deepcopy(model.state_dict()), torch.randn(3, 3, 12, 12), torch.get_rng_state()
    with torch.set_grad_enabled(gradient), torch.autocast("cpu", torch.bfloat16, enabled=gradient):
        timings = auto.measure(auto.Probe(model, at(model.blocks, 0)), x)
    assert set(timings) == {"plain", "fast"}
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), before.values(), strict=True))
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert model.engine == "auto"


def test_unit_recognition() -> None:
    model = create_model("convmixer_bn", dim=8, depth=1)
    unit = as_unit(model.stem)
    assert unit is not None
    assert unit.is_patches
    branch = as_units(at(model.blocks, 0, 0).fn)
    assert [u.is_depthwise for u in branch] == [False, True, False]
    assert as_unit(nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.GELU(), nn.BatchNorm2d(3))) is None


@pytest.mark.parametrize("name", VARIANTS)
def test_fuse_changes_nothing_but_the_time(name: str) -> None:
    plain, model = pair(name)
    x = torch.randn(5, 3, 12, 10)
    for m in (plain, model):
        m(x)
    before = copy.deepcopy(model.state_dict())
    assert model.fuse() is model
    plain.eval(), model.eval()
    for bf16 in (False, True):
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            model.unfuse()
            expected = model(x)
            fused = model.fuse()(x)
            assert torch.equal(fused, expected) if bf16 else relative(fused, expected) < 1e-6
            assert torch.equal(model(x), fused)
            assert torch.equal(copy.deepcopy(model)(x), fused)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), before.values(), strict=True))
    with torch.no_grad():  # changed weights are noticed
        at(model.blocks, 1)[1].weight.mul_(2)
        plain.load_state_dict(model.state_dict())
        assert relative(model(x), plain(x)) < 1e-5
    assert_same_training(plain.train(), model.train(), x)
    assert pickle.loads(pickle.dumps(model)).fuse().unfuse().engine == "fast"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("engine", ["auto", "fast"])
def test_traces_and_exports_hold_no_operations_of_ours(engine: Engine) -> None:
    _, model = pair()
    model.set_engine(engine)
    x = torch.randn(4, 3, 8, 8)
    model.eval()
    traced = torch.jit.trace(model, (x,), check_trace=False)
    exported = torch.export.export(model, (x,))
    assert "aten::_convolution" in str(traced.inlined_graph)
    assert "convmixer::" not in str(traced.inlined_graph)
    assert "convmixer" not in " ".join(str(node.target) for node in exported.graph.nodes)
    assert torch.equal(traced(x), exported.module()(x))


@pytest.mark.parametrize("name", ["convmixer", "convmixer_bn"])
def test_flops_are_counted_the_same(name: str) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    plain, model = pair(name, depth=2, kernel_size=9)
    automatic = copy.deepcopy(model)
    automatic.set_engine("auto")
    x = torch.randn(70, 3, 16, 16)  # enough columns for products by convolution
    totals = []
    for m in (plain, model, automatic):
        with FlopCounterMode(display=False) as forward, torch.no_grad():
            m(x)
        with FlopCounterMode(display=False) as training:
            m(x).sum().backward()
        totals.append((forward.get_total_flops(), training.get_total_flops()))
    assert totals[0] == totals[1] == totals[2]
    narrow, area = (24 if name == "convmixer" else 12), 70 * 8 * 8
    branch = narrow * 81 + (0 if name == "convmixer" else 2 * 24 * narrow)
    assert totals[0][0] == 2 * (area * (3 * 4 * 24 + 2 * (branch + 24 * 24)) + 70 * 24 * 10)


@pytest.mark.parametrize("custom", [False, True])
@pytest.mark.parametrize("name", VARIANTS)
def test_recomputed_blocks_change_no_gradient_and_no_statistic(name: str, custom: bool) -> None:
    x, y = torch.randn(6, 3, 12, 10), torch.arange(6)
    for model in pair(name, kernel_size=(5, 3, 3), depth=3, drop_path=0.3, dropout=0.2):
        if custom:  # blocks that the fast engine runs as modules
            at(model.blocks, 0)[2] = nn.GELU(approximate="tanh")
            at(model.blocks, 1).append(nn.BatchNorm2d(24))
        again = copy.deepcopy(model)
        again.set_grad_checkpointing()
        calls = []
        for m in (model, again):
            with dispatch.record() as ran:
                calls.append((gradients(m, x, y), sum(ran.values())))
        ((logits, expected), before), ((own_logits, own), after) = calls
        assert torch.equal(own_logits, logits)
        assert all(torch.equal(a, b) for a, b in zip(own, expected, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(again.buffers(), model.buffers(), strict=True))
        assert (after > before) == (model.engine == "fast")  # it did run again
        again.set_grad_checkpointing(False)
        gradients(again, x, y)
        with torch.no_grad():
            assert again(x).isfinite().all()


def test_recomputed_blocks_keep_less() -> None:
    for model in pair(depth=4):
        kept = []
        for enable in (False, True):
            model.set_grad_checkpointing(enable)
            bytes_kept: dict[int, int] = {}

            def note(tensor: Tensor, sizes: dict[int, int] = bytes_kept) -> Tensor:
                sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
                loss = model(torch.randn(8, 3, 32, 32)).sum()
            kept.append(sum(bytes_kept.values()))
            loss.backward()
        assert kept[1] < 0.6 * kept[0], model.engine
