r"""Hooks of the documentation: formulas as MathML, so that no script is fetched, and pages that are files elsewhere.

A page whose front matter says ``source: norms/README.md`` shows that file. Formulas are ``$$ ... $$`` in pages and, in
docstrings, ``.. math::`` and :math:`x`; roles such as :class:`~torch.nn.Module` become code.
"""

import posixpath
import re
import textwrap
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from markdown import Markdown
from markdown.extensions import Extension
from markdown.preprocessors import Preprocessor

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^( *)\.\. math::\n((?:\1 +\S.*\n?|\s*\n)+)", re.MULTILINE)
DISPLAY = re.compile(r"^\$\$(.+?)\$\$$", re.MULTILINE)
INLINE = re.compile(r":math:`([^`]+)`")
ROLE = re.compile(r":(?:py:)?(?:class|func|meth|data|attr|mod):`~?([^`]+)`")
FENCE = re.compile(r"^( *```.*?^ *```)", re.MULTILINE | re.DOTALL)
# What latex2mathml does not know, in terms that it knows.
PLAIN = {r"\lVert": r"\|", r"\rVert": r"\|", r"\!": ""}


def to_mathml(latex: str, display: str) -> str:
    """Return a formula as MathML on one line."""
    for name, plain in PLAIN.items():
        latex = latex.replace(name, plain)
    return convert(" ".join(latex.split()), display=display)


class Formulas(Preprocessor):
    """Turn the formulas and roles of docstrings into what Markdown knows."""

    def run(self, lines: list[str]) -> list[str]:
        """Return the lines with formulas as MathML."""
        text = "\n".join(lines) + "\n"
        parts = FENCE.split(text)
        parts[::2] = [self._formulas(part) for part in parts[::2]]
        return "".join(parts).split("\n")

    def _formulas(self, text: str) -> str:
        text = BLOCK.sub(lambda m: f"\n{m[1]}{self._store(m[2], 'block')}\n\n", text)
        text = DISPLAY.sub(lambda m: self._store(m[1], "block"), text)
        text = INLINE.sub(lambda m: self._store(m[1], "inline"), text)
        return ROLE.sub(lambda m: f"`{m[1].removeprefix('.')}`", text)

    def _store(self, latex: str, display: str) -> str:
        stash: Any = self.md.htmlStash
        return str(stash.store(to_mathml(textwrap.dedent(latex), display)))


class FormulaExtension(Extension):
    """Define the Markdown extension that :class:`Formulas` needs."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802, Markdown's name
        """Put the formulas after the cleaning of whitespace (30), which would damage them, and before all else."""
        md.preprocessors.register(Formulas(md), "formulas", 28)


def on_config(config: Any) -> Any:
    """Add the formulas to Markdown."""
    config.markdown_extensions.append(FormulaExtension())
    return config


def on_page_read_source(page: Any, config: Any) -> str | None:
    """Read a page that stands in another file of the project."""
    text = Path(page.file.abs_src_path).read_text()
    source = re.match(r"---\nsource: (\S+)\n---\n", text)
    return page_of(source[1], page.file.src_uri) if source else None


def page_of(source: str, page: str) -> str:
    """Return a file of the project as a page, its links led to pages where there are any.

    Args:
        source: The file, from the root of the project.
        page: Where the page stands in ``docs``.
    """
    shown = {"examples": "guides/examples.md"} | {
        match[1]: path.relative_to(ROOT / "docs").as_posix()
        for path in (ROOT / "docs").rglob("*.md")
        if (match := re.match(r"---\nsource: (\S+)\n---\n", path.read_text()))
    }

    def link(match: re.Match[str]) -> str:
        label, target, anchor = match[1], match[2], match[3] or ""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        path = shown.get(path, path.removeprefix("docs/"))
        if not (ROOT / "docs" / path).is_file():
            return label
        return f"[{label}]({posixpath.relpath(path, posixpath.dirname(page) or '.')}{anchor})"

    return re.sub(r"\[([^\]]+)\]\((?!https?:|#)([^)#]+)(#[^)]*)?\)", link, (ROOT / source).read_text())
