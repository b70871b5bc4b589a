"""Muon against its definition by singular values, and against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convmixer.training import muon
from convmixer.training.muon import Muon, orthogonalize


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), count=st.integers(1, 4), m=st.integers(1, 24), n=st.integers(1, 24))
def test_orthogonal_matrices_keep_their_singular_vectors(seed: int, count: int, m: int, n: int) -> None:
    """U S V^T becomes U S' V^T with S' near 1: the product with V U^T is then symmetric, with S' as eigenvalues."""
    generator = torch.Generator().manual_seed(seed)
    u, _, vt = torch.linalg.svd(torch.randn(count, m, n, generator=generator, dtype=torch.float64), full_matrices=False)
    s = 0.1 + torch.rand(count, min(m, n), generator=generator, dtype=torch.float64)
    matrices = (u * s[:, None]) @ vt
    result = orthogonalize(matrices.float()).double()
    inner = u.mT @ result @ vt.mT
    values = inner.diagonal(dim1=1, dim2=2)
    assert (inner - torch.diag_embed(values)).abs().max() < 1e-4
    assert (result - u @ inner @ vt).abs().max() < 1e-4  # nothing outside the singular spaces
    assert ((values > 0.6) & (values < 1.3)).all()


@pytest.mark.parametrize("has", [True, False])
def test_large_matrices_may_be_computed_in_bfloat16(has: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muon, "has_bfloat16", lambda device: has)
    u, _, vt = torch.linalg.svd(
        torch.randn(2, 130, 150, generator=torch.Generator().manual_seed(0)), full_matrices=False
    )
    matrices = (u * torch.linspace(0.1, 1.0, 130)) @ vt
    result = orthogonalize(matrices)
    inner = u.mT @ result @ vt.mT
    values = inner.diagonal(dim1=1, dim2=2)
    assert result.dtype == torch.float32
    assert ((values > 0.5) & (values < 1.4)).all()
    assert float((inner - torch.diag_embed(values)).norm() / values.norm()) < (0.05 if has else 1e-4)
    assert torch.equal(result, result.bfloat16().float()) == has


def test_nothing_to_orthogonalize_stays_nothing() -> None:
    assert torch.equal(orthogonalize(torch.zeros(2, 3, 4)), torch.zeros(2, 3, 4))


@pytest.mark.parametrize("shapes", [[(8, 8)] * 3, [(16, 4), (4, 16), (16, 4)]])
def test_steps_are_those_of_pytorch(shapes: list[tuple[int, int]]) -> None:
    """PyTorch's Muon orthogonalises in bfloat16, one matrix after the other; ours in float32 on a CPU."""
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(*shape, 1, 1)) for shape in shapes]
    theirs = [torch.nn.Parameter(weight.detach().clone().flatten(1)) for weight in ours]
    mine = Muon(ours, lr=0.05, momentum=0.8, weight_decay=0.1)
    other = torch.optim.Muon(theirs, lr=0.05, momentum=0.8, weight_decay=0.1)
    start = [weight.detach().clone() for weight in theirs]
    for _ in range(5):
        for a, b in zip(ours, theirs, strict=True):
            b.grad = torch.randn_like(b)
            a.grad = b.grad.view_as(a).clone()
        mine.step()
        other.step()
    for a, b, before in zip(ours, theirs, start, strict=True):
        moved = (b - before).norm()
        assert (a.flatten(1) - b).norm() < 0.02 * moved


def test_a_gradient_that_is_not_finite_is_skipped_where_a_scaler_says_so() -> None:
    weight = torch.nn.Parameter(torch.randn(4, 4, 1, 1))
    optimizer = Muon([weight], lr=0.1, momentum=0.9, weight_decay=0.1)
    weight.grad = torch.randn_like(weight)
    optimizer.step()
    before, momentum = weight.detach().clone(), optimizer.state[weight]["momentum"].clone()
    weight.grad = torch.full_like(weight, float("inf"))
    optimizer.found_inf = torch.ones(())  # type: ignore[attr-defined]
    optimizer.step()
    assert torch.equal(weight, before)
    assert torch.equal(optimizer.state[weight]["momentum"], momentum)
    optimizer.found_inf = torch.zeros(())  # type: ignore[attr-defined]
    weight.grad = torch.randn_like(weight)
    optimizer.step()
    assert not torch.equal(weight, before)
