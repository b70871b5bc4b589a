"""The tensors of these tests are tiny; tests of threading choose their numbers themselves."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """Everywhere in this folder."""
