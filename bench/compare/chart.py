"""The comparison as a picture: for each image and system a bar from the command to work done."""

from html import escape

from compare import workloads

_WIDTH, _LEFT, _BAR, _GAP = 860, 270, 16, 6
_RIGHT = 110
# Mounted or pulled; until the first output; until done.
_COLOURS = (("mounted_seconds", "#4269d0", "mounted or pulled"),
            ("ready_seconds", "#97bbf5", "first output"),
            ("total_seconds", "#c9c9c9", "done"))


def _text(x, y, words, anchor="start", size=12, weight="normal"):
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" '
            f'font-weight="{weight}">{escape(words)}</text>')


def _bar(y, system, figures, scale):
    yield _text(_LEFT - 8, y + 12, system, "end")
    before = 0.0
    for name, colour, _ in _COLOURS:
        until = figures[name]["median"]
        yield (f'<rect x="{_LEFT + before * scale:.1f}" y="{y}" '
               f'width="{max((until - before) * scale, 0.5):.1f}" height="{_BAR}" '
               f'fill="{colour}"/>')
        before = until
    yield _text(_LEFT + before * scale + 6, y + 12,
                f"{before:.2f} s, {figures['bytes']['median'] / 1e6:,.0f} MB")


def _floor(top, bottom, seconds, scale):
    x = _LEFT + seconds * scale
    yield (f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}" stroke="#d03030" '
           'stroke-dasharray="4 3"/>')


def svg(results):
    lines, y = [], 20
    x = _LEFT
    for _, colour, words in _COLOURS:
        lines += [f'<rect x="{x}" y="{y - 10}" width="12" height="12" fill="{colour}"/>',
                  _text(x + 18, y, words)]
        x += 150
    lines.append(_text(x, y, "- - floor"))
    y += 20
    for image, systems in results["cold"].items():
        if not systems:
            continue
        size = results["image_bytes"][image]
        y += 18
        lines.append(_text(8, y, f"{workloads.ALL[image].title.replace('`', '')}, "
                                 f"{size / 1e6:,.0f} MB", weight="bold", size=13))
        y += 10
        top = y
        longest = max(one["total_seconds"]["median"] for one in systems.values())
        scale = (_WIDTH - _LEFT - _RIGHT) / longest
        for system, figures in systems.items():
            lines += _bar(y, system, figures, scale)
            y += _BAR + _GAP
        if image in results.get("floor", {}):
            lines += _floor(top - 2, y - _GAP + 2,
                            results["floor"][image]["floor"]["floor_seconds"], scale)
        y += 10
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{y}" '
            f'viewBox="0 0 {_WIDTH} {y}" font-family="sans-serif">\n'
            '<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(lines) + "\n</svg>\n")
