"""Blocks as Markdown and LaTeX (`page.py`: as HTML); each escapes what it is given, whatever it holds."""

from __future__ import annotations

import re
from collections.abc import Sequence

from harness.report.blocks import Block, Chapter, Figure, Paragraph, Table, printable, slug

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


def latex(table: Table) -> str:
    """The table as a booktabs tabular, to be \\input into a table environment."""
    head = _latex_row([latex_text(name) for name in table.columns])
    lines = []
    for i, row in enumerate(table.rows):
        cells = [latex_text(cell) for cell in row]
        cells = [rf"\textbf{{{cell}}}" if (i, j) in table.strong else cell for j, cell in enumerate(cells)]
        lines.append(_latex_row(cells) + r" \\")
    columns = "l" * len(table.columns)
    note = "".join(f"% {line}\n" for line in printable(table.caption).splitlines())
    top = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head + r" \\", r"\midrule"]
    return note + "\n".join([*top, *lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    row = " & ".join(cells)
    # After `\\` and `\midrule`, `[` begins the height of the gap, and `*` forbids a page break.
    return f"{{}}{row}" if row.lstrip().startswith(("[", "*")) else row


def latex_text(text: str) -> str:
    """Text that LaTeX sets as it is."""
    return "".join(_LATEX.get(character, character) for character in printable(text))
