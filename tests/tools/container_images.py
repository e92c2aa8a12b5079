"""Small images whose containers run: a static program of our own (inside.c), and a few files."""

import os
import subprocess

from tools import images, workplace
from tools.layers import LayerWriter
from tools.layout import Layout

PROGRAM = "/inside"


def _program():
    def make(directory):
        subprocess.run(["gcc", "-O2", "-static", "-o", os.path.join(directory, "inside"),
                        os.path.join(workplace.TOOLS, "inside.c")], check=True)

    return os.path.join(workplace.kept("inside", workplace.source_of("inside.c"), make), "inside")


def _write_layer(path, number):
    """Layer 0 holds the program; the others a directory of their own, and one file that each of
    them replaces."""
    with LayerWriter(path) as layer:
        if number == 0:
            with open(_program(), "rb") as file:
                layer.file("inside", file.read(), mode=0o755)
            layer.directory("etc")
            layer.file("etc/top", b"layer 0\n")
            layer.directory("tmp", mode=0o1777)
        else:
            layer.file("etc/top", b"layer %d\n" % number)
            layer.directory(f"layer-{number}")
            for each in range(20):
                layer.file(f"layer-{number}/{each:02}", b"%d of layer %d\n" % (each, number) * 500)


def chain():
    """[Image]: the n-th has n + 1 layers, and those of the ones before it; its tag is chain-n."""
    def make(directory):
        layout = Layout(os.path.join(directory, "layout"))
        for number in range(4):
            _write_layer(os.path.join(directory, f"{number}.tar"), number)
            tars = [os.path.join(directory, f"{each}.tar") for each in range(number + 1)]
            images.add(layout, f"chain-{number}", tars, ("gzip",) * len(tars), directory,
                       command=[PROGRAM, "pause"])

    recipe = workplace.source_of("container_images.py", "images.py", "layers.py", "layout.py",
                                 "inside.c")
    directory = workplace.kept("chain", recipe, make)
    layout = Layout(os.path.join(directory, "layout"))
    return [images.Image(layout, f"chain-{number}",
                         [os.path.join(directory, f"{each}.tar") for each in range(number + 1)])
            for number in range(4)]


def pause():
    """What keeps a pod: waits until it is told to end."""
    return chain()[0]
