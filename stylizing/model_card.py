"""A folder for the Hugging Face Hub: a network's file, and a model card that shows what it paints and has learned."""

from collections.abc import Mapping
from pathlib import Path

from PIL import ImageOps

from data.photos import VAL_PHOTOS, bundled_photo
from lightning_modules.style_transfer import StyleTransfer
from stylizing.painting import Manner, paint
from training.images import to_picture, write_image
from training.model_cards import front_matter, learned, settings, table, write_card
from training.network_files import SUFFIX, THUMBNAIL, header_of, write_network

NETWORK = f"network{SUFFIX}"

LONGEST = 512
"""Longer side of the pictures, in pixels."""

_SHOWN = (
    ("norm", "normalization"),
    ("widths", "channels at full resolution and after each halving"),
    ("num_blocks", "residual blocks"),
    ("upsampling", "upsampling"),
    ("noise", "noise added to a photo"),
    ("loss_network", "loss network"),
    ("style_size", "longer side of the style pictures, in pixels"),
    ("photo_size", "longer side at which a photo is painted, in pixels"),
)
"""Settings that the card shows, and what it calls them."""


def write_folder(model: StyleTransfer, folder: Path, told: Mapping[str, str]) -> None:
    """Write ``network.safetensors``, ``README.md`` and the pictures that it shows.

    The photographs are those that validate trainings on ``data.BundledPhotos``, painted in every style.

    Args:
        model: The trained network, in evaluation mode.
        folder: Where to; it may exist.
        told: What else the network's header says, such as ``data`` and ``licence``.

    Raises:
        SettingError: If something cannot be written.
    """
    write_network(model, folder / NETWORK, told)
    rows = [["", *(f"![{_name(photo)}](pictures/{_name(photo)}.jpg)" for photo in VAL_PHOTOS)]]
    photos = [ImageOps.contain(bundled_photo(name), (LONGEST, LONGEST)) for name in VAL_PHOTOS]
    for name, photo in zip(VAL_PHOTOS, photos, strict=True):
        write_image(photo, folder / "pictures" / f"{_name(name)}.jpg")
    for index, (style, picture) in enumerate(zip(model.style_names, model.style_images, strict=True), start=1):
        # Styles are numbered, since their names may be anything.
        shown = ImageOps.contain(to_picture(picture), (2 * THUMBNAIL, 2 * THUMBNAIL))
        write_image(shown, folder / "pictures" / f"style{index}.jpg")
        row = [f"![{style}](pictures/style{index}.jpg)<br>{style}"]
        for name, photo in zip(VAL_PHOTOS, photos, strict=True):
            file = f"pictures/{_name(name)}_style{index}.jpg"
            write_image(paint(model, photo, Manner(index - 1)), folder / file)
            row.append(f"![{_name(name)} in the style {style}]({file})")
        rows.append(row)
    header = header_of(model, told)
    tags = ["style-transfer", "image-to-image"]
    matter = front_matter(told, model.hparams["norm"], "image-to-image", tags)
    write_card(folder, matter, _text(model, folder.resolve().name, header, rows))


def _name(photo: str) -> str:
    return Path(photo).stem


def _text(model: StyleTransfer, name: str, header: Mapping[str, str], rows: list[list[str]]) -> list[str]:
    styles = model.style_names
    return [
        f"A style-transfer network that paints any photo in {_listed(styles)}, "
        f"by {model.hparams['norm']} normalization.",
        "",
        *table(rows),
        "",
        "The photographs come with scikit-image (chelsea, CC0, and coffee, CC0) and scikit-learn (china.jpg, CC BY "
        "2.0, by danielbuechele). The network has not seen them in a training on `data.BundledPhotos`.",
        "",
        "## Use",
        "",
        "```bash",
        f"hf download YOU/{name} {NETWORK} --local-dir .",
        f"python stylize.py {NETWORK} photo.jpg -o out/" + (f" --style {styles[-1]}" if len(styles) > 1 else ""),
        "```",
        "",
        "or in Python:",
        "",
        "```python",
        "from PIL import Image",
        "",
        "from lightning_modules import StyleTransfer",
        "from stylizing.painting import paint",
        "from training.run import Run",
        "",
        f'model = Run.find("{NETWORK}").load(StyleTransfer)',
        'paint(model, Image.open("photo.jpg").convert("RGB")).save("painted.jpg")',
        "```",
        "",
        *settings({title: model.hparams[key] for key, title in _SHOWN}, header),
        *learned(model.transformer),
    ]


def _listed(styles: list[str]) -> str:
    if len(styles) == 1:
        return f"the style *{styles[0]}*"
    return f"the styles {', '.join(f'*{style}*' for style in styles[:-1])} and *{styles[-1]}*, and in mixtures of them"
