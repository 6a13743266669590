"""A page in the browser that repaints photos: ``python stylize.py bundled --serve``."""

import errno
import html
import os
import secrets
import signal
import socket
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
import torch
import uvicorn
from fastapi import FastAPI
from PIL import Image
from starlette.middleware.trustedhost import TrustedHostMiddleware
from torchvision.transforms.v2 import functional as tvf

from data.photos import bundled_photo
from lightning_modules.painter import Painter, split_shares
from norms.errors import SettingError, check_range
from stylizing.gate import Gate
from stylizing.jobs import KEPT_EXTENSIONS
from stylizing.painting import Colors, Manner, paint
from stylizing.photo import read
from stylizing.repaint import OUT_OF_MEMORY
from training.devices import find_device
from training.images import write_image
from training.run import Run
from training.shipped import with_shipped_networks

MAX_BYTES = 50 * 2**20
"""How large the file of a photo may be."""

MAX_PIXELS = 50_000_000
"""How many pixels of a photo may be decoded, unless ``--max-pixels`` says otherwise."""

WAITING = 20
"""How many paintings may wait for their turn; one is painted at a time."""

CLEANED, KEPT = 600, 3600
"""Every so many seconds, files that are older than so many are deleted."""

SHOWN = 1600
"""How long the longer side of the pictures to compare is at most; the file to download has all pixels."""

EXAMPLE = "coffee"
"""The photograph that is painted until the visitor gives one."""

COLORS = [
    ("Painted", "painted"),
    ("The photo's colors", "luma"),
    ("The photo's tones, painted", "histogram"),
    ("The photo's color cast, painted", "covariance"),
]
"""What the visitor reads for each way to color."""

LOOPBACK = ["127.0.0.1", "localhost"]
"""Where nobody but this computer's users can come from, by any name that their browsers may use."""

LEAD = """# Paint a photo

A small neural network {skill}. It repaints any photo in one pass. Drop yours, or try it on the example."""

PRIVACY = """Photos go to the computer that serves this page, and nowhere else. It deletes them within two hours."""

CSS = """
#normlab { display: grid; grid-template-columns: minmax(280px, 2fr) 5fr; grid-template-areas: "what made" "how made";
    grid-template-rows: auto 1fr; gap: 16px 28px; align-items: start; }
#what { grid-area: what; } #how { grid-area: how; } #made { grid-area: made; }
#what, #made, #how { gap: 12px; min-width: 0 !important; }
@media (max-width: 800px) {
    #normlab { grid-template-columns: minmax(0, 1fr); grid-template-areas: "what" "made" "how"; }
    #made button.lg { flex-grow: 1 !important; }
}
#styles .grid-wrap { min-height: 0; height: auto; max-height: 340px; padding: 2px; }
#styles .grid-container { padding: 0; gap: 8px; grid-template-columns: repeat(3, minmax(0, 1fr)); }
#styles .caption-label { inset: auto 0 0 0; max-width: none; padding: 2px 6px; border: 0; border-radius: 0;
    text-align: center; color: white; background: rgb(0 0 0 / 0.6); }
#styles .selected { outline: 3px solid var(--color-accent); outline-offset: -1px; }
#made .row { align-items: center; }
#note { flex: 1 1 200px; overflow-wrap: anywhere; }
#note, #note .html-container { padding: 0; }
.small p { font-size: var(--text-sm); color: var(--body-text-color-subdued); }
"""


class Studio:
    """Paint for the visitors of the page.

    Args:
        model: A trained model in evaluation mode.
        folder: Where photos and results are kept.
        size: How long the longer side of results may be; None for any length.
        max_pixels: How many pixels of a photo may be decoded.
    """

    def __init__(self, model: Painter, folder: Path, size: int | None, max_pixels: int) -> None:
        self.model = model
        self.folder = folder
        self.size = size
        self.max_pixels = max_pixels
        self.example = folder / f"{EXAMPLE}.png"
        write_image(bundled_photo(EXAMPLE), self.example)

    def paint(
        self,
        source: str | None,
        picture: str | None,
        stroke_size: float,
        strength: float,
        colors: Colors,
        *shares: float,
    ) -> tuple[tuple[str, str], Any, str]:
        """Paint a photo.

        Args:
            source: The file, or None for the example.
            picture: The file of a picture that is the style, for a network of any style; or None.
            stroke_size: See :class:`Manner`.
            strength: See :class:`Manner`.
            colors: See :class:`Manner`.
            shares: How much of each style, relative to the others.

        Returns:
            Photo and painting to compare, the file to download, and a note.

        Raises:
            Error: What the visitor is told if that cannot be.
        """
        photo = self.example if source is None else Path(source)
        given = [photo] if picture is None else [photo, Path(picture)]
        try:
            check_range("the size of strokes", stroke_size, at_least=0.05, at_most=20)
            check_range("the strength", strength, at_least=0, at_most=1)
            chosen = self._chosen(shares) if picture is None else {picture: 1.0}
            style = self.model.find_style([f"{name}={share:.6f}" for name, share in chosen.items()])
            names = [name if picture is None else Path(name).stem for name in chosen]
            return self._paint(photo, Manner(style, stroke_size, strength, colors), "-".join(names))
        except SettingError as error:
            reason = str(error)
            for path in given:  # by the name that the visitor knows
                reason = reason.replace(str(path), path.name)
        except RuntimeError as error:
            if not any(words in str(error) for words in OUT_OF_MEMORY):
                raise
            reason = f"{photo.name} is too large for the memory: try a smaller photo or larger strokes"
        raise gr.Error(html.escape(reason), duration=None, print_exception=False)

    def _chosen(self, shares: Sequence[float]) -> dict[str, float]:
        """Return the styles that have shares, which then sum to 1."""
        given = dict(zip(self.model.style_names, shares, strict=True))
        for name, share in given.items():
            check_range(f"the share of {name}", share, at_least=0, at_most=100)
        if not sum(shares):
            raise SettingError("no style has a share: choose one")
        return {name: share / sum(shares) for name, share in given.items() if share}

    def _paint(self, source: Path, manner: Manner, name: str) -> tuple[tuple[str, str], Any, str]:
        suffix = source.suffix if source.suffix.lower() in KEPT_EXTENSIONS else ".png"
        made = self.folder / "made" / secrets.token_hex(16)
        target = made / f"{source.stem[:100]}-{name[:100]}{suffix}"
        photo = read(source, target, self.size, self.max_pixels)
        result = paint(self.model, photo.image, manner)
        compared = made / "photo.jpg", made / "painting.jpg"
        for image, path in zip((photo.image, result), compared, strict=True):
            write_image(_reduced(image), path)
        lacks = photo.write(result, target)
        note = (
            f"{'The example, ' if source == self.example else ''}{target.name}, {result.width} x {result.height} pixels"
        )
        if lacks:
            note += f". Left out: {', '.join(lacks)}"
        return (
            (str(compared[0]), str(compared[1])),
            gr.DownloadButton(value=target, interactive=True),
            html.escape(note),
        )


def serve(options: Namespace) -> None:
    """Serve the page until Ctrl-C.

    Raises:
        SettingError: If there is no such network, style or device, or the port cannot be listened on.
    """
    with _listening(options.host, options.port) as listening, tempfile.TemporaryDirectory(prefix="normlab") as name:
        device = find_device(options.device)
        model = Run.find(with_shipped_networks(options.run)).load(Painter).to(device)
        folder = Path(name).resolve()
        os.environ["GRADIO_TEMP_DIR"] = str(folder)
        Image.init()
        Image.ID.remove("EPS")  # programs in PostScript, which Pillow lets Ghostscript run
        studio = Studio(model, folder, options.size, options.max_pixels or MAX_PIXELS)
        app = _guarded(_page(studio, options), folder, options.host)
        config = uvicorn.Config(app, log_level="warning", ws="none", timeout_graceful_shutdown=1)
        # The folder is removed after this signal too.
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
        host, port = listening.getsockname()[:2]
        print(f"open http://{f'[{host}]' if ':' in host else host}:{port} in a browser; Ctrl-C ends it", flush=True)
        uvicorn.Server(config).run(sockets=[listening])


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = "it is in use" if error.errno == errno.EADDRINUSE else error.strerror
        raise SettingError(
            f"cannot serve at port {port} of {host}: {reason} (--port 0 takes any that is free)"
        ) from error


def _guarded(page: gr.Blocks, folder: Path, host: str) -> FastAPI:
    """Return the server of a page, which gives and takes no more than the page needs."""
    app = FastAPI(openapi_url=None)
    app.add_middleware(Gate, folder=folder, max_bytes=MAX_BYTES)
    if host in LOOPBACK:  # a page of another site may have given its own name to this computer
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=LOOPBACK)
    fonts = ["system-ui", "sans-serif"]
    theme = gr.themes.Soft(primary_hue="orange", neutral_hue="stone", font=fonts, font_mono=["monospace"])
    plain = {"block_title_background_fill": "none", "block_title_text_color": "*body_text_color"}
    theme.set(
        **plain,
        **{f"{name}_dark": value for name, value in plain.items()},
        block_title_padding="0",
        block_label_text_color="*body_text_color",
        block_border_width="1px",
        body_background_fill="*neutral_50",
        body_text_color_subdued="*neutral_600",
        input_border_color="*neutral_300",
        checkbox_border_color="*neutral_400",
        # Dark enough for white letters.
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        slider_color="*primary_600",
    )
    return gr.mount_gradio_app(
        app,
        page,
        path="/",
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=MAX_BYTES,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=theme,
        css=CSS,
    )


def _page(studio: Studio, options: Namespace) -> gr.Blocks:
    names = studio.model.style_names
    given = dict(split_shares(options.style or names[:1]))
    for name in set(given) - set(names):
        raise SettingError(f"--style {name}: choose it in the page, or one of {', '.join(names)} here")
    shares = [100 * given.get(name, 0.0) for name in names]
    first = names.index(next(iter(given))) if len(given) == 1 else None
    with gr.Blocks(title="Paint a photo", analytics_enabled=False, delete_cache=(CLEANED, KEPT)) as page:
        any_picture = studio.model.takes_pictures
        pictures = "each picture" if len(names) > 1 else "the picture"
        skill = "paints in the style of any picture" if any_picture else f"has learned the strokes of {pictures} below"
        gr.Markdown(LEAD.format(skill=skill))
        with gr.Row(elem_id="normlab"):
            with gr.Column(elem_id="what"):
                gr.Markdown("### Your photo")
                photo = gr.File(show_label=False, file_types=["image"], height=136)
                gr.Markdown("### Style")
                styles = gr.Gallery(
                    [
                        (_thumbnail(picture), name)
                        for picture, name in zip(studio.model.style_images, names, strict=True)
                    ],
                    show_label=False,
                    elem_id="styles",
                    columns=3,
                    height="auto",
                    allow_preview=False,
                    selected_index=first,
                    object_fit="cover",
                    buttons=[],
                    container=False,
                )
                gr.Markdown("### Or a picture of yours", visible=any_picture)
                mine = gr.File(show_label=False, file_types=["image"], height=136, visible=any_picture)
            with gr.Column(elem_id="made"):
                compared = gr.ImageSlider(
                    label="Photo and painting", show_label=False, buttons=["fullscreen"], max_height=640
                )
                with gr.Row():
                    note = gr.HTML(elem_id="note", padding=False)
                    download = gr.DownloadButton(
                        "Download at full size", variant="primary", interactive=False, scale=0, min_width=280
                    )
            with gr.Column(elem_id="how"):
                least, most = min(0.5, options.stroke_size), max(4, options.stroke_size)
                stroke_size = gr.Slider(least, most, options.stroke_size, step=0.05, label="Stroke size", buttons=[])
                strength = gr.Slider(0, 1, options.strength, step=0.05, label="Strength", buttons=[])
                colors = gr.Dropdown(COLORS, value=options.colors, label="Colors")
                with gr.Accordion("Mix styles", open=first is None, visible=len(names) > 1):
                    gr.Markdown("Shares are relative: 50 and 50 is half and half.", elem_classes="small")
                    mixture: list[Any] = [
                        gr.Slider(0, 100, share, step=1, label=name, buttons=[])
                        for name, share in zip(names, shares, strict=True)
                    ]
        gr.Markdown(PRIVACY, elem_classes="small")
        manner: list[Any] = [stroke_size, strength, colors]
        outputs = [compared, download, note]
        job: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "paint", "show_progress_on": compared}
        quiet: dict[str, Any] = {"concurrency_limit": None, "show_progress": "hidden", "api_visibility": "private"}

        def paint_after(listen: Callable[..., Any]) -> None:
            painting = listen(
                fn=studio.paint,
                inputs=[photo, mine, *manner, *mixture],
                outputs=outputs,
                trigger_mode="always_last",
                api_visibility="private",
                **job,
            )
            painting.failure(lambda: (None, gr.DownloadButton(interactive=False), ""), None, outputs, **quiet)

        def choose(event: gr.SelectData) -> list[Any]:
            return [None, *(100 * (index == event.index) for index in range(len(names)))]

        changes = [each.input for each in (*manner, *mixture)]
        paint_after(
            partial(
                gr.on, [page.load, *(event for file in (photo, mine) for event in (file.upload, file.clear)), *changes]
            )
        )
        paint_after(styles.select(choose, None, [mine, *mixture], **quiet).then)
        other = [mine.upload, *changes[len(manner) :]]
        gr.on(other, lambda: gr.Gallery(selected_index=None), None, styles, **quiet)
    page.queue(max_size=WAITING, api_open=False)
    return page


def _thumbnail(picture: torch.Tensor) -> Image.Image:
    side = min(picture.shape[1:])
    return tvf.to_pil_image(tvf.resize(tvf.center_crop(picture.cpu(), [side, side]), [192, 192]))


def _reduced(image: Image.Image) -> Image.Image:
    reduced = image.copy()
    reduced.thumbnail((SHOWN, SHOWN), Image.Resampling.LANCZOS)
    return reduced
