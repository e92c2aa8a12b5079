"""Puts figures into docs/benchmark.md, between its marks, and draws the picture."""

import os

from compare import chart, report
from tools import workplace

_BEGIN = "<!-- figures: bench/peers --publish writes what is between here -->\n"
_END = "<!-- and here -->\n"


def publish(results):
    docs = os.path.join(workplace.PROJECT, "docs")
    path = os.path.join(docs, "benchmark.md")
    with open(path, encoding="utf-8") as file:
        text = file.read()
    before, rest = text.split(_BEGIN)
    after = rest.split(_END)[1]
    picture = "![seconds from the command to work done](benchmark.svg)\n"
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"{before}{_BEGIN}\n{picture}\n{report.markdown(results)}\n{_END}{after}")
    with open(os.path.join(docs, "benchmark.svg"), "w", encoding="utf-8") as file:
        file.write(chart.svg(results))
