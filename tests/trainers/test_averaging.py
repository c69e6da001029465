"""The average is torch's, without its copies to the device."""

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ebbflow.trainers.averaging import Average


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
        self.number = nn.Parameter(torch.zeros(()))
        self.register_buffer("constant", torch.zeros(2))


def test_it_is_bit_for_bit_that_of_torch():
    torch.manual_seed(0)
    model = Model()
    own, reference = Average(model, 0.99), AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99))
    for step in range(4):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += torch.randn_like(parameter)
            model.constant += 1.0
        own.update_parameters(model)
        reference.update_parameters(model)
        assert own.state_dict().keys() == reference.state_dict().keys()
        assert all(torch.equal(value, reference.state_dict()[name]) for name, value in own.state_dict().items())
        assert own.rate == 1.0 - 0.99 and int(own.n_averaged) == step + 1


def test_a_model_without_buffers_is_averaged():
    model = nn.Linear(1, 1)
    average = Average(model, 0.5)
    average.update_parameters(model)
    assert torch.equal(average.module.weight, model.weight)
