"""A small disk: an ext4 in a file in memory, which can promise more than it has."""

import os
import subprocess


def _run(*words):
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


def mount(point, size, room=None):
    """Sizes as `mount -o size=` has them. Returns what undoes it, also while it is in use."""
    place = point + ".room"
    undo = []

    def close():
        while undo:
            undo.pop()()

    os.mkdir(place)
    undo.append(lambda: os.rmdir(place))
    try:
        _run("mount", "-t", "tmpfs", "-o", f"size={room or size}", "tmpfs", place)
        undo.append(lambda: _run("umount", "-l", place))
        disk = os.path.join(place, "disk")
        _run("truncate", "-s", size.upper(), disk)
        _run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,nodiscard", disk)
        loop = _run("losetup", "--find", "--show", disk)
        undo.append(lambda: _run("losetup", "--detach", loop))
        _run("mount", "-o", "errors=continue", loop, point)
        undo.append(lambda: _run("umount", "-l", point))
    except BaseException:
        close()
        raise
    return close


def fill(directory):
    """Takes all that is left; returns the path of the file that has it."""
    path = os.path.join(directory, "filler")
    with open(path, "wb", buffering=0) as file:
        for block in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(bytes(block))
            except OSError:
                continue
    return path
