"""Layers at random over few names, so that everything meets everything; for tools/model.py."""

import os
import random

from tools.tar_writer import DIRECTORY, FIFO, TarWriter

NAMES = (b"a", b"b", b"c", b"\xff", b"d.e", b"link")
TARGETS = (b"a", b"/b", b"../c", b"link", b"a/link", b"/", b"../../..", b"c/d.e", b"nowhere/b",
           b"nowhere/../b")


def _path(generator):
    parts = [generator.choice(NAMES) for _ in range(generator.choice((1, 1, 2, 2, 2, 3, 4)))]
    path = b"/".join(parts)
    return generator.choice((path, path, path, b"./" + path, b"/" + path, path.replace(b"/", b"//")))


def _add(tar, generator, number):
    path = _path(generator)
    looks = {"uid": generator.choice((0, 1, 3_000_000_000)), "mode": generator.randrange(0o10000),
             "time_ns": generator.randrange(-10**18, 10**18)}
    kind = generator.choices(("file", "directory", "symlink", "hardlink", "fifo", "whiteout",
                              "opaque"), (8, 6, 3, 3, 1, 3, 1))[0]
    if kind == "file":
        tar.entry(path, data=b"%d" % number * generator.randrange(200), **looks)
    elif kind == "directory":
        tar.entry(path + generator.choice((b"", b"/")), DIRECTORY, **looks)
    elif kind == "symlink":
        del looks["mode"]
        tar.symlink(path, generator.choice(TARGETS), **looks)
    elif kind == "hardlink":
        tar.hardlink(path, _path(generator), **looks)
    elif kind == "fifo":
        tar.entry(path, FIFO, **looks)
    elif kind == "whiteout":
        tar.whiteout(path)
    else:
        tar.opaque(generator.choice((path, os.path.dirname(path))))


def _write_layer(path, steps):
    with TarWriter(path) as tar:
        for number, step in enumerate(steps):
            _add(tar, random.Random(step), number)
        tar.end()


def write(directory, generator, is_possible):
    """Writes one to four layers and returns their paths, and whether all of it is possible.

    Most sequences hold something that nobody can unpack. So is_possible(paths) tells which steps
    are left out; but now and then one that is not possible stays, as the last of all.
    """
    paths = []
    for layer in range(generator.randint(1, 4)):
        paths.append(os.path.join(directory, f"{layer}.tar"))
        steps = []
        for _ in range(generator.randint(0, 25)):
            steps.append(generator.random())
            _write_layer(paths[-1], steps)
            if not is_possible(paths):
                if generator.random() < 0.02:
                    return paths, False
                steps.pop()
        _write_layer(paths[-1], steps)
    return paths, True
