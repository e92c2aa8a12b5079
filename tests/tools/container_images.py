"""Small images whose containers run: a static program of our own (inside.c), and a few files."""

import os
import random
import subprocess
import zlib

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


_RECIPE = ("container_images.py", "images.py", "layers.py", "layout.py", "inside.c")


def chain():
    """[Image]: the n-th has n + 1 layers, and those of the ones before it; its tag is chain-n."""
    def make(directory):
        layout = Layout(os.path.join(directory, "layout"))
        for number in range(4):
            _write_layer(os.path.join(directory, f"{number}.tar"), number)
            tars = [os.path.join(directory, f"{each}.tar") for each in range(number + 1)]
            images.add(layout, f"chain-{number}", tars, ("gzip",) * len(tars), directory,
                       command=[PROGRAM, "pause"])

    directory = workplace.kept("chain", workplace.source_of(*_RECIPE), make)
    layout = Layout(os.path.join(directory, "layout"))
    return [images.Image(layout, f"chain-{number}",
                         [os.path.join(directory, f"{each}.tar") for each in range(number + 1)])
            for number in range(4)]


def siblings():
    """[Image]: two that have their upper layer in common, and so no snapshot; their tags are
    sibling-1 and sibling-2."""
    def make(directory):
        layout = Layout(os.path.join(directory, "layout"))
        for number in range(3):
            _write_layer(os.path.join(directory, f"{number}.tar"), number)
        for number in (1, 2):
            tars = [os.path.join(directory, f"{each}.tar") for each in (number, 0)]
            images.add(layout, f"sibling-{number}", tars, ("gzip",) * 2, directory,
                       command=[PROGRAM, "pause"])

    directory = workplace.kept("siblings", workplace.source_of(*_RECIPE), make)
    layout = Layout(os.path.join(directory, "layout"))
    return [images.Image(layout, f"sibling-{number}",
                         [os.path.join(directory, f"{each}.tar") for each in (number, 0)])
            for number in (1, 2)]


def pause():
    """What keeps a pod: waits until it is told to end."""
    return chain()[0]


# Of each image of a family.
TREE = "/data"
_FILES, _FILE_BYTES = 16, 200_000


def _data(layer, number):
    return random.Random(f"{layer} {number}").randbytes(_FILE_BYTES)


def family(count):
    """[Image]: each has the program, a layer that all share, one that every other one shares, and
    one of its own. What is not the program's is below TREE; the tag is family-N."""
    def make(directory):
        layout = Layout(os.path.join(directory, "layout"))
        program = os.path.join(directory, "program.tar")
        _write_layer(program, 0)
        for name in {name for number in range(count) for name in _layers(number)}:
            with LayerWriter(os.path.join(directory, name + ".tar")) as layer:
                layer.directory(TREE[1:])
                layer.directory(f"{TREE[1:]}/{name}")
                for each in range(_FILES):
                    layer.file(f"{TREE[1:]}/{name}/{each:02}", _data(name, each))
        for number in range(count):
            tars = [program, *(os.path.join(directory, name + ".tar") for name in _layers(number))]
            images.add(layout, f"family-{number}", tars, ("gzip",) * len(tars), directory,
                       command=[PROGRAM, "pause"])

    recipe = workplace.source_of("container_images.py", "images.py", "layers.py", "layout.py",
                                 "inside.c")
    directory = workplace.kept(f"family-{count}", recipe, make)
    layout = Layout(os.path.join(directory, "layout"))
    return [images.Image(layout, f"family-{number}",
                         [os.path.join(directory, name + ".tar")
                          for name in ("program", *_layers(number))])
            for number in range(count)]


def _layers(number):
    return "all", f"half-{number % 2}", f"own-{number}"


def family_sums(number):
    """What the program's "sum" says of TREE."""
    return "".join(f"{zlib.crc32(_data(name, each)):08x} {TREE}/{name}/{each:02}\n"
                   for name in _layers(number) for each in range(_FILES))
