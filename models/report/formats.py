"""Tables of text as Markdown, LaTeX and HTML."""

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

PAGE = """\
<!doctype html>
<meta charset="utf-8">
<style>
body {{ font: 15px/1.5 sans-serif; margin: 1em; max-width: 75em; }}
p {{ max-width: 60em; }}
div {{ overflow-x: auto; }}
table {{ border-collapse: collapse; }}
th, td {{ padding: 0.2em 0.8em; text-align: right; white-space: nowrap; }}
th:first-child, td:first-child {{ text-align: left; }}
thead th {{ border-bottom: 1px solid; }}
th[colspan] {{ padding-top: 0.6em; font-style: italic; font-weight: normal; }}
</style>
<p>{caption}</p>
{tables}"""


@dataclass(frozen=True)
class Table:
    """Cells to read; the first column is text, the others are numbers.

    Attributes
    ----------
    title : str
        One line.
    header : sequence of str
        Names of the columns.
    rows : sequence of (str, sequence of str)
        The block that a row belongs to, and its cells; rows of a block follow one another.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]

    def blocks(self) -> Iterator[tuple[str, list[Sequence[str]]]]:
        """Each block's name and rows."""
        for block, rows in groupby(self.rows, key=lambda row: row[0]):
            yield block, [cells for _, cells in rows]


def markdown(caption: str, tables: Sequence[Table]) -> str:
    """Write a caption and tables with blocks in italics."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    lines = [caption]
    for table in tables:
        columns = len(table.header)
        lines += ["", f"### {table.title}", "", line(table.header)]
        lines.append(line([":--", *["--:"] * (columns - 1)]))
        for block, rows in table.blocks():
            lines.append(line([f"*{block}*", *[""] * (columns - 1)]))
            lines += map(line, rows)
    return "\n".join(lines) + "\n"


def latex(caption: str, tables: Sequence[Table]) -> str:
    """Write floats for a document that uses the package booktabs."""
    parts = ["% needs \\usepackage{booktabs}"]
    for number, table in enumerate(tables):
        columns = len(table.header)
        title = f"{table.title}. {caption}" if number == 0 else f"{table.title}."
        parts += [
            "\\begin{table}",
            "\\centering\\scriptsize\\setlength{\\tabcolsep}{3pt}",
            f"\\caption{{{_tex(title)}}}",
            f"\\begin{{tabular}}{{l{'r' * (columns - 1)}}}",
            "\\toprule",
            _tex_row(table.header),
        ]
        for block, rows in table.blocks():
            heading = f"\\multicolumn{{{columns}}}{{l}}{{\\emph{{{_tex(block)}}}}} \\\\"
            parts += ["\\midrule", heading, *map(_tex_row, rows)]
        parts += ["\\bottomrule", "\\end{tabular}", "\\end{table}", ""]
    return "\n".join(parts)


def _tex_row(cells: Sequence[str]) -> str:
    # Braces, as a row that begins with a bracket would be an argument of the one before.
    return " & ".join(f"{{{_tex(cell)}}}" for cell in cells) + " \\\\"


def _tex(text: str) -> str:
    special = {character: f"\\{character}" for character in "&%$#_{}"}
    special |= {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
    special |= {"<": "$<$", ">": "$>$"}
    return "".join(special.get(character, character) for character in text)


def page(caption: str, tables: Sequence[Table]) -> str:
    """Write an HTML page; all text is escaped."""
    parts = []
    for table in tables:
        header = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.header)
        parts += [f"<h3>{html.escape(table.title)}</h3>", "<div><table>"]
        parts.append(f"<thead><tr>{header}</tr></thead>")
        for block, rows in table.blocks():
            columns = len(table.header)
            parts.append(f'<tr><th colspan="{columns}">{html.escape(block)}</th></tr>')
            for cells in rows:
                inner = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
                parts.append(f"<tr>{inner}</tr>")
        parts.append("</table></div>")
    return PAGE.format(caption=html.escape(caption), tables="\n".join(parts) + "\n")
