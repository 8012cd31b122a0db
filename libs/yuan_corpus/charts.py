"""Bar charts as SVG text: for pages and files that show without a network, scripts or a plot library."""

import html
from collections.abc import Mapping, Sequence

_COLOURS = ("#2b6cb0", "#dd6b20", "#2f855a", "#b83280", "#6b46c1", "#718096", "#975a16", "#0987a0")
_WIDTH, _LABEL, _VALUE = 760, 190, 70
_BAR, _GAP = 13, 10


def bar_chart(title: str, labels: Sequence[str], series: Mapping[str, Sequence[float | None]], unit: str = "") -> str:
    """Returns a chart of horizontal bars.

    Args:
        title: over it.
        labels: one a group of bars.
        series: by name, a value a label; None: no bar. Values are not negative.
        unit: said of the values, beside the title.
    """
    most = max((value for values in series.values() for value in values if value is not None), default=0.0) or 1.0
    top = 26 + (20 if len(series) > 1 else 0)
    height = top + len(labels) * (_BAR * len(series) + _GAP) + 6
    heading = html.escape(title + (f" ({unit})" if unit else ""))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'font-family="sans-serif" font-size="11" role="img" aria-label="{heading}">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        f'<text x="4" y="16" font-size="13" font-weight="bold">{heading}</text>',
    ]
    if len(series) > 1:
        parts += _legend(list(series))
    for row, label in enumerate(labels):
        y = top + row * (_BAR * len(series) + _GAP)
        middle = y + _BAR * len(series) / 2 + 4
        parts.append(f'<text x="{_LABEL - 6}" y="{middle:.1f}" text-anchor="end">{html.escape(_short(label))}</text>')
        for number, values in enumerate(series.values()):
            value = values[row]
            if value is not None:
                parts.append(_bar(value, value / most, y + number * _BAR, _COLOURS[number % len(_COLOURS)]))
    return "".join([*parts, "</svg>\n"])


def _bar(value: float, share: float, y: float, colour: str) -> str:
    width = share * (_WIDTH - _LABEL - _VALUE)
    return (
        f'<rect x="{_LABEL}" y="{y:.1f}" width="{width:.1f}" height="{_BAR - 2}" fill="{colour}"/>'
        f'<text x="{_LABEL + width + 4:.1f}" y="{y + _BAR - 4:.1f}">{_number(value)}</text>'
    )


def _legend(names: Sequence[str]) -> list[str]:
    step = (_WIDTH - 8) / len(names)
    room = max(4, int((step - 16) / 6))
    return [
        f'<rect x="{4 + step * number:.0f}" y="26" width="10" height="10" fill="{_COLOURS[number % len(_COLOURS)]}"/>'
        f'<text x="{18 + step * number:.0f}" y="35">{html.escape(_short(name, room))}</text>'
        for number, name in enumerate(names)
    ]


def _short(text: str, room: int = 30) -> str:
    return text if len(text) <= room else text[: room - 1] + "…"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 or value == int(value) else f"{value:.3g}"
