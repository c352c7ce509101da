"""Blocks as Markdown, HTML and LaTeX; each escapes what it is given, whatever it holds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from harness.report.blocks import Block, Figure, Paragraph, Table, printable, slug

Chapter = tuple[str, str, Sequence[Block]]
"""A section as rendered: anchor, title, blocks."""

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "×": r"$\times$",
    "—": "---",
    "–": "--",
    "δ": r"$\delta$",
    "λ": r"$\lambda$",
    "θ": r"$\theta$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "·": r"$\cdot$",
}


def markdown(title: str, chapters: Sequence[Chapter]) -> str:
    """The report as GitHub-flavoured Markdown; figures are links into figures/."""
    parts = [f"# {markdown_text(title)}"]
    for _, heading, blocks in chapters:
        parts.append(f"## {markdown_text(heading)}")
        parts += [_markdown_block(block) for block in blocks]
    return "\n\n".join(parts) + "\n"


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is, inside table cells too."""
    text = re.sub(r"([\\`*\[\]|~$])", r"\\\1", printable(text))
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)  # inside a word it is plain
    text = re.sub(r"^(\s*)([#+=-])(?=[\s#+=-]|$)", r"\1\\\2", text)  # no heading, no list
    return re.sub(r"^(\s*\d+)([.)])(?=\s|$)", r"\1\\\2", text)


def _markdown_block(block: Block) -> str:
    if isinstance(block, Paragraph):
        mark = {"warning": "> **Warning:** ", "banner": "> **Unfinished:** "}.get(block.kind, "")
        return mark + markdown_text(block.text)
    if isinstance(block, Figure):
        link = f"![{markdown_text(block.alt)}](figures/{slug(block.name)}.svg)"
        return f"{link}\n\n*{markdown_text(block.caption)}*"
    lines = [[markdown_text(name) or " " for name in block.columns], ["---"] * len(block.columns)]
    for i, row in enumerate(block.rows):
        cells = [markdown_text(cell) for cell in row]
        lines.append([f"**{cell}**" if (i, j) in block.strong else cell for j, cell in enumerate(cells)])
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{body}\n\n*{markdown_text(block.caption)}*"


def html(title: str, chapters: Sequence[Chapter]) -> str:
    """The report as one page that refers to nothing outside itself."""
    return _template().render(title=printable(title), chapters=chapters) + "\n"


@lru_cache(maxsize=1)
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("harness.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plain"] = printable
    environment.filters["inline"] = _inline_svg
    environment.tests["paragraph"] = lambda block: isinstance(block, Paragraph)
    environment.tests["figure"] = lambda block: isinstance(block, Figure)
    return environment.get_template("report.html.j2")


def _inline_svg(figure: Figure) -> Markup:
    """The drawing for use inside HTML, where namespaces are implied and the page says what it shows."""
    root, rest = figure.svg[figure.svg.index("<svg") :].split(">", 1)
    root = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", root).removeprefix("<svg")
    # ElementTree escaped every name when the drawing was made; the label is escaped here.
    start = Markup('<svg role="img" aria-label="{}"').format(printable(figure.alt))
    return start + Markup(f"{root}>{rest.replace('xlink:href=', 'href=')}")


def latex(table: Table) -> str:
    """The table as a booktabs tabular, to be \\input into a table environment."""
    head = " & ".join(latex_text(name) for name in table.columns)
    lines = []
    for i, row in enumerate(table.rows):
        cells = [latex_text(cell) for cell in row]
        cells = [rf"\textbf{{{cell}}}" if (i, j) in table.strong else cell for j, cell in enumerate(cells)]
        lines.append(" & ".join(cells) + r" \\")
    columns = "l" * len(table.columns)
    note = "".join(f"% {line}\n" for line in printable(table.caption).splitlines())
    top = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head + r" \\", r"\midrule"]
    return note + "\n".join([*top, *lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def latex_text(text: str) -> str:
    """Text that LaTeX sets as it is."""
    return "".join(_LATEX.get(character, character) for character in printable(text))
