"""Small runs of GANs, untrained but for noise on their weights, with a configuration that names their data."""

import pytorch_lightning as pl
import torch
import yaml

import norms
from lightning_modules.gan import GAN

GARMENTS = "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"


def make_gan(**options):
    """Make a GAN whose live and averaged generators differ, and whose classes make a difference."""
    torch.manual_seed(0)
    gan = GAN(**{"architecture": "resnet16", "channels": 1, "latent_dim": 8, **options})
    for parameter in gan.generator_ema.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    norms.project_(gan)
    return gan.eval()


def write_run(folder, gan, data="data.BundledDigits", **settings):
    """Write a run folder with a checkpoint of the GAN and the configuration of its data."""
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=folder)
    trainer.strategy.connect(gan)
    trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt")
    config = {"data": {"class_path": data, "init_args": {"image_size": 16, **settings}}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder
