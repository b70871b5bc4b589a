"""The moving average of weights, against its definition."""

from __future__ import annotations

import pytest
import torch

from convmixer.models import ConvMixer
from convmixer.training.ema import ModelEma


def small_model() -> ConvMixer:
    torch.manual_seed(0)
    return ConvMixer(4, 1, kernel_size=3, in_channels=1, engine="plain")


def test_it_is_the_average_with_a_decay_that_warms_up() -> None:
    model = small_model()
    average = ModelEma(model, 0.5)
    expected = {name: tensor.double() for name, tensor in model.state_dict().items()}
    for t in range(20):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_()
        model(torch.randn(4, 1, 4, 4))  # changes the statistics of the normalisations
        average.update()
        decay = min(0.5, (1 + t) / (10 + t))
        for name, tensor in model.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * tensor.double()
    assert average.updates == 20
    state = average.model.state_dict()
    assert state["stem.2.num_batches_tracked"] == 20  # a count, not an average
    for name in (name for name in expected if not name.endswith("tracked")):
        torch.testing.assert_close(state[name].double(), expected[name], rtol=1e-5, atol=1e-6)
    assert not torch.equal(state["stem.2.running_var"], model.state_dict()["stem.2.running_var"])


def test_it_stands_apart_from_the_model() -> None:
    model = small_model()
    average = ModelEma(model, 0.9)
    before = {name: tensor.clone() for name, tensor in average.model.state_dict().items()}
    with torch.no_grad():
        model.head.get_parameter("weight").zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in average.model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
    assert not average.model.training


@pytest.mark.parametrize("decay", [0.9, 0.999])
def test_a_constant_model_is_its_average(decay: float) -> None:
    model = small_model()
    average = ModelEma(model, decay)
    for _ in range(3):
        average.update()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(average.model.state_dict()[name], tensor)
