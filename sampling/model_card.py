"""A folder for the Hugging Face Hub: a generator's file, and a model card that shows what it draws and has learned."""

from collections.abc import Mapping
from pathlib import Path

import torch

from lightning_modules.generation import enlarged_grid
from lightning_modules.metrics.generated import to_bytes
from sampling.draw import COLUMNS, batches, name_of_class
from sampling.plan import Plan
from sampling.trained import TrainedGenerator
from training.images import write_image
from training.model_cards import front_matter, learned, settings, write_card
from training.network_files import SUFFIX, header_of, write_network

GENERATOR = f"generator{SUFFIX}"

PICTURE = "samples.png"

ROWS = 10
"""In the picture, at most."""


def write_folder(trained: TrainedGenerator, folder: Path, told: Mapping[str, str]) -> None:
    """Write ``generator.safetensors``, ``README.md`` and the picture that it shows.

    Args:
        trained: The generator.
        folder: Where to; it may exist.
        told: What else the file's header says, such as ``data`` and ``licence``.

    Raises:
        SettingError: If something cannot be written.
    """
    write_network(trained, folder / GENERATOR, told, convolutions=torch.float32)
    classes = tuple(range(min(trained.num_classes, ROWS)))
    plan = Plan(COLUMNS * (len(classes) or COLUMNS), trained.latent_dim, labels=classes, sweeps=bool(classes))
    images = to_bytes(torch.cat(list(batches(trained, plan))))
    write_image(enlarged_grid(images, COLUMNS), folder / PICTURE)
    norm = trained.hparams["norm"]
    matter = front_matter(told, norm, "unconditional-image-generation", ["gan", "image-generation"])
    write_card(folder, matter, _text(trained, folder.resolve().name, header_of(trained, told), classes))


def _text(trained: TrainedGenerator, name: str, header: Mapping[str, str], classes: tuple[int, ...]) -> list[str]:
    channels, height, width = trained.image_shape
    colors = {1: "gray", 3: "RGB"}.get(channels, f"{channels}-channel")
    rows = f"A row for each class: {', '.join(name_of_class(trained, label) for label in classes)}. " if classes else ""
    choice = f" --label {trained.num_classes - 1}" if classes else ""
    facts = {
        "architecture": trained.hparams["architecture"],
        "changed in it": trained.hparams["architecture_options"],
        "normalization": trained.hparams["norm"],
        "length of a latent vector": trained.latent_dim,
        "classes": ", ".join(trained.class_names) or trained.num_classes or None,
    }
    return [
        f"A generator that draws {colors} images of {width}x{height} pixels from noise, trained as a GAN, by "
        f"{trained.hparams['norm']} normalization. Its running statistics are settled.",
        "",
        f"![samples]({PICTURE})",
        "",
        f"{rows}The images are of seed 0, the first ones, and not chosen.",
        "",
        "## Use",
        "",
        "```bash",
        f"hf download YOU/{name} {GENERATOR} --local-dir .",
        f"python sample.py {GENERATOR} -o samples.png{choice}",
        "```",
        "",
        "or in Python:",
        "",
        "```python",
        "from sampling.draw import draw",
        "from training.images import to_picture",
        "",
        f'images = draw("{GENERATOR}", count=16, seed=1)  # in [0, 1], (16, {channels}, {height}, {width})',
        'to_picture(images[0]).save("image.png")',
        "```",
        "",
        *settings(facts, header),
        *learned(trained.network),
    ]
