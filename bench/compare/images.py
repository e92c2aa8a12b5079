"""The images that all systems run, all of Debian packages: python3, torch, and torch with CUDA.

One OCI layout holds them, tagged by name. They are made once.
"""

import fcntl
import os
import shutil
import subprocess

import image
from measure import note
from tools import images, layers, science_image, workplace
from tools.layout import Layout

NAMES = ("python", "torch", "cuda")
CUDA = "nvidia-cuda-toolkit"
# Where CUDA is: debian-rootfs writes the mirror's line with the first component only.
_MORE_COMPONENTS = ('--setup-hook=sed -i "s/ main$/ main contrib non-free/" '
                    '"$1/etc/apt/sources.list"')


def directory():
    default = os.path.join(workplace.PROJECT, "build", "bench-images")
    return os.path.abspath(os.environ.get("SLUICE_BENCH_IMAGES", default))


def _cuda_tar(scratch):
    """What the CUDA toolkit adds to Debian with torch."""
    rootfs = os.path.join(workplace.TOOLS, "debian-rootfs")
    below, whole, cuda = (os.path.join(scratch, name + ".tar")
                          for name in ("below", "whole", "cuda"))
    note("making Debian with CUDA (gigabytes: some minutes)")
    # Both with the same apt sources, so that the difference is the packages.
    packages = "--include=" + science_image.PACKAGES
    subprocess.run([rootfs, below, "", _MORE_COMPONENTS, packages], check=True)
    subprocess.run([rootfs, whole, "", _MORE_COMPONENTS, f"{packages},{CUDA}"], check=True)
    layers.difference(below, whole, cuda)
    os.unlink(below)
    os.unlink(whole)
    return cuda


def _cuda_part(scratch):
    tar = _cuda_tar(scratch)
    blob = os.path.join(scratch, "cuda.tar.gz")
    note("compressing the CUDA layer")
    return tar, blob, layers.compress(tar, blob, "gzip")


def _torch_parts():
    """(tar, blob, media type) of the three layers that `bench/run` uses, too."""
    tars = [*images.debian_tars(), science_image.science_tar()]
    return [(tar, blob, layers.GZIP) for tar, blob in zip(tars, image.blobs(image.make()))]


def _add(layout, name):
    parts = _torch_parts()
    if name != "cuda":
        layout.add_image(parts[:2] if name == "python" else parts, name, command=["python3"])
        return
    scratch = workplace.fresh_directory("bench-cuda")
    try:
        layout.add_image([*parts, _cuda_part(scratch)], name, command=["python3"])
    finally:
        shutil.rmtree(scratch)


def _lines(path):
    if not os.path.exists(path):
        return []
    with open(path, encoding="ascii") as file:
        return file.read().splitlines()


def make(names=NAMES):
    """The layout that holds at least `names`. READY lists those that are whole."""
    path = directory()
    os.makedirs(path, exist_ok=True)
    ready = os.path.join(path, "READY")
    with open(os.path.join(path, "lock"), "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        layout = Layout(path)
        for name in names:
            if name not in _lines(ready):
                _add(layout, name)
                with open(ready, "a", encoding="ascii") as file:
                    file.write(name + "\n")
    return layout


def compressed_size(layout, name):
    """Bytes of an image's layers as the registry has them."""
    manifest = layout.json(layout.find(name)["digest"])
    return sum(layer["size"] for layer in manifest["layers"])
