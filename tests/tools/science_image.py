"""A real image: Debian 12 in three gzip layers (base, python3, then numpy, scipy, pandas, torch)."""

import os
import subprocess

from tools import images, layers, workplace
from tools.images import Image
from tools.layout import Layout

PACKAGES = "python3,python3-numpy,python3-scipy,python3-pandas,python3-torch"

# It says when torch is there, and prints what only a right run knows.
PROGRAM = """
import torch
print("ready", flush=True)
a = torch.arange(65536, dtype=torch.float64).reshape(256, 256) % 97
print(int((a @ a.T).trace()))
"""
# The trace is the sum of the squares of all elements.
ANSWER = str(sum((number % 97) ** 2 for number in range(65536)))


def _make_science_tar(directory):
    rootfs = os.path.join(workplace.TOOLS, "debian-rootfs")
    whole, below = (os.path.join(directory, name) for name in ("whole.tar", "below.tar"))
    subprocess.run([rootfs, whole, "", "--include=" + PACKAGES], check=True)
    subprocess.run([rootfs, below, "", "--include=python3"], check=True)
    layers.difference(below, whole, os.path.join(directory, "science.tar"))
    os.unlink(whole)
    os.unlink(below)


def science_tar():
    """What the packages add to Debian with python3: nearly 2 GB, made in minutes."""
    recipe = PACKAGES + workplace.source_of("layers.py", "debian-rootfs")
    return os.path.join(workplace.kept("science", recipe, _make_science_tar), "science.tar")


def make(with_science=True):
    """The image, tagged "science"; else Debian with python3 alone."""
    tars = (*images.debian_tars(), *([science_tar()] if with_science else []))

    def make_layout(directory):
        images.add(Layout(os.path.join(directory, "layout")), "science", tars,
                   ("gzip",) * len(tars), directory, command=["python3"])

    directory = workplace.kept("science-image", "gzip\0" + "\0".join(tars), make_layout)
    return Image(Layout(os.path.join(directory, "layout")), "science", tars)
