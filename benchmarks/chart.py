"""Bars as SVG, readable on a light and on a dark page."""

from math import log10
from xml.sax.saxutils import escape

ROW, LABEL, BAR = 22, 330, 380
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#24292f}.b{fill:#8c959f}.o{fill:#0969da}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.b{fill:#6e7681}.o{fill:#58a6ff}}"
)


def bars(title, figures, unit, logarithmic=False):
    """Return an SVG with a bar for each of `figures`, a dictionary of names and numbers.

    Names that begin with "ours" stand out. `logarithmic` is for numbers that span magnitudes; it
    then says so.
    """
    numbers = [number for number in figures.values() if number > 0]
    least, most = min(numbers), max(numbers)

    def width(number):
        if logarithmic:
            return BAR * (log10(number / least) + 0.3) / (log10(most / least) + 0.3)
        return BAR * number / most

    lines = [f'<text x="0" y="16" font-weight="600">{escape(title)}, {escape(unit)}{" (log)" * logarithmic}</text>']
    for row, (name, number) in enumerate(figures.items(), start=1):
        middle, kind = row * ROW + 16, "o" if name.startswith("ours") else "b"
        lines += [
            f'<text x="{LABEL - 8}" y="{middle}" text-anchor="end">{escape(name)}</text>',
            f'<rect class="{kind}" x="{LABEL}" y="{middle - 12}" width="{width(number):.1f}" height="16" rx="2"/>',
            f'<text x="{LABEL + width(number) + 6:.1f}" y="{middle}">{number:,.{0 if number >= 10 else 1}f}</text>',
        ]
    height = (len(figures) + 1) * ROW + 8
    size = f'viewBox="0 0 {LABEL + BAR + 70} {height}" width="{LABEL + BAR + 70}" height="{height}"'
    return "\n".join(
        [f'<svg xmlns="http://www.w3.org/2000/svg" {size}>', f"<style>{STYLE}</style>", *lines, "</svg>\n"]
    )
