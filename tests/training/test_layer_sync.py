"""Synchronized norms in a Lightning trainer."""

import os
from unittest.mock import patch

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import DataLoader

import norms
from training.layer_sync import NormSync


class Model(LightningModule):
    """Notes of which class its norms are while it is trained."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.BatchNorm2d(2), norms.BatchInstanceNorm2d(2))
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append([(type(layer), getattr(layer, "sync", None)) for layer in self.net])
        return (self.net(batch) - 1).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(model, **options):
    trainer = Trainer(
        max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, **options,
    )  # fmt: skip
    trainer.fit(model, DataLoader(torch.randn(4, 2, 3, 3), batch_size=2))
    return trainer


@pytest.fixture
def _group_of_one():
    """Leaves neither the group nor the variables behind that a distributed trainer makes."""
    with patch.dict(os.environ):
        yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("_group_of_one")
def test_a_trainer_synchronizes_for_the_fit_and_no_longer():
    model = Model()
    gamma = model.net[0].weight
    before = gamma.detach().clone()
    fit(model, plugins=[NormSync()], strategy="ddp", devices=1)
    assert model.seen == [[(norms.BatchNorm2d, True), (norms.BatchInstanceNorm2d, True)]] * 2
    assert [type(layer) for layer in model.net] == [nn.BatchNorm2d, norms.BatchInstanceNorm2d]
    assert not model.net[1].sync
    assert model.net[0].weight is gamma
    assert (gamma != before).all()
    assert model.net[0].num_batches_tracked == 2


def test_a_trainer_of_one_process_leaves_norms_as_they_are():
    model = Model()
    fit(model, plugins=[NormSync()])
    assert model.seen == [[(nn.BatchNorm2d, None), (norms.BatchInstanceNorm2d, False)]] * 2


def test_lightning_refuses_a_second_synchronization():
    with pytest.raises(MisconfigurationException, match="Choose one or the other"):
        Trainer(sync_batchnorm=True, plugins=[NormSync()], accelerator="cpu")
