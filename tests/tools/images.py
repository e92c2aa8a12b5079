"""The images that the tests use, made once (workplace.kept) as OCI layouts."""

import collections
import os
import random
import subprocess
import tarfile

from tools import layers, workplace
from tools.layers import LayerWriter
from tools.layout import Layout

Image = collections.namedtuple("Image", "layout tag tars")  # tars: lowest layer first

_SOURCES = ("images.py", "layers.py", "layout.py", "debian-rootfs")
# VFS capability, revision 2: cap_net_bind_service, effective.
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")


def _debian_tars(directory):
    rootfs = os.path.join(workplace.TOOLS, "debian-rootfs")
    base, python = (os.path.join(directory, name) for name in ("base.tar", "with-python.tar"))
    subprocess.run([rootfs, base], check=True)
    subprocess.run([rootfs, python, "", "--include=python3"], check=True)
    layers.difference(base, python, os.path.join(directory, "python.tar"))
    os.unlink(python)


def debian_tars():
    """(base.tar, python.tar): Debian, and what python3 adds to it."""
    directory = workplace.kept("debian", workplace.source_of("layers.py", "debian-rootfs"),
                               _debian_tars)
    return os.path.join(directory, "base.tar"), os.path.join(directory, "python.tar")


def add(layout, tag, tars, hows, directory, **image):
    """Compresses each tar as its `how` says and adds the image."""
    parts = []
    for tar, how in zip(tars, hows):
        blob = os.path.join(directory, "blob")
        media_type = layers.compress(tar, blob, how)
        descriptor = layout.add_file(blob, media_type)
        parts.append((tar, layout.blob_path(descriptor["digest"]), media_type))
        os.unlink(blob)
    return layout.add_image(parts, tag, **image)


def write_peculiar_layer(path):
    """All that a layer may hold and a package does not, above Debian with python3."""
    long_name = "a-name-of-far-more-than-one-hundred-bytes/" * 3
    deep = "/".join(f"{level:02}-" + "d" * 90 for level in range(4))
    with LayerWriter(path) as layer:
        layer.directory("special", mtime=1600000001)
        layer.file("special/fraction", b"time\n", mtime=1600000000.123456789)
        layer.file("special/before-1970", b"old\n", mtime=-5000000.25)
        layer.file("special/owner", b"owned\n", uid=123456, gid=3000000, mode=0o640)
        layer.file("special/setuid", b"#!\n", mode=0o6755)
        layer.directory("special/sticky", mode=0o1777)
        layer.file("special/empty", b"")
        layer.file("special/one-byte", b"1")
        layer.file("special/block", b"b" * 512)
        layer.file("special/block-and-one", b"c" * 513)
        layer.file("special/zeros", bytes(9 << 20))
        layer.file("special/noise", random.Random(7).randbytes(3_000_001))
        layer.file("special/capable", b"\x7fELF", mode=0o755,
                   xattrs={"security.capability": CAPABILITY})
        layer.file("special/attributes", b"x\n",
                   xattrs={"user.text": b"value", "user.empty": b"", "user.binary": bytes(range(256)),
                           "user.long": b"v" * 3000, "trusted.of-root": b"yes"})
        layer.directory("special/attributed", xattrs={"user.directory": b"too"})
        layer.file("special/labelled", b"l\n", xattrs={"security.selinux": b"system_u:object_r:t:s0"})
        layer.directory("special/overlay", xattrs={"trusted.overlay.opaque": b"y"})
        layer.file("special/" + long_name + "file", b"long\n")
        layer.file("special/" + deep + "/file", b"deep\n")
        layer.symlink("special/long-link", "/" + long_name + "nowhere")
        layer.file("special/Grüße, 世界", "ü\n".encode())
        layer.file("special/spaces and\nnewline\ttab", b"odd\n")
        layer.symlink("special/absolute", "/etc/passwd")
        layer.symlink("special/relative", "../etc/hostname")
        layer.symlink("special/dangling", "nothing/here")
        layer.file("special/first-name", b"linked\n", mode=0o600)
        layer.hardlink("special/second-name", "special/first-name")
        layer.hardlink("special/link-of-lower", "etc/passwd")
        layer.fifo("special/fifo", mode=0o622)
        layer.device("special/null", tarfile.CHRTYPE, 1, 3, mode=0o666)
        layer.device("special/loop", tarfile.BLKTYPE, 7, 300, mode=0o660, gid=6)
        layer.directory("special/many")
        for number in range(3000):
            layer.file(f"special/many/{number:05}-entry", b"%d\n" % number)
        layer.file("implied/parents/have/no/entry", b"implied\n")
        # bin is a symlink to usr/bin below: unpackers follow it.
        layer.file("bin/through-a-link", b"#!/bin/sh\n", mode=0o755)
        layer.whiteout("etc/debian_version")
        layer.whiteout("usr/share/doc")
        layer.directory("usr/share/common-licenses")
        layer.opaque("usr/share/common-licenses")
        layer.file("usr/share/common-licenses/OURS", b"free\n")
        layer.file("etc/issue", b"replaced\n")
        layer.file("usr/share/bash-completion", b"a file where a directory was\n")
        layer.directory("etc/issue.net", mtime=1600000002)
        layer.file("etc/issue.net/inside", b"a directory where a file was\n")
        layer.symlink("etc/cron.daily", "cron.weekly")


def debian():
    """Debian, python3, and a layer of peculiar things; three gzip layers of different makers."""
    base, python = debian_tars()

    def make(directory):
        peculiar = os.path.join(directory, "peculiar.tar")
        write_peculiar_layer(peculiar)
        add(Layout(os.path.join(directory, "layout")), "debian", (base, python, peculiar),
              ("gzip-parallel", "gzip", "gzip-members"), directory, command=["python3"])

    directory = workplace.kept("debian-image", workplace.source_of(*_SOURCES), make)
    return Image(Layout(os.path.join(directory, "layout")), "debian",
                 (base, python, os.path.join(directory, "peculiar.tar")))


def python_images():
    """Two images that share the Debian layers: ("python", "related"), as a pair of Image."""
    base, python = debian_tars()

    def make(directory):
        layout = Layout(os.path.join(directory, "layout"))
        extra = os.path.join(directory, "extra.tar")
        with LayerWriter(extra) as layer:
            layer.directory("opt/extra")
            layer.file("opt/extra/data", random.Random(11).randbytes(2_000_000))
            layer.file("opt/extra/hello.py", b"print('hello from the related image')\n")
        add(layout, "python", (base, python), ("gzip", "gzip"), directory, command=["python3"])
        add(layout, "related", (base, python, extra), ("gzip",) * 3, directory,
              command=["python3"])

    directory = workplace.kept("python-images", workplace.source_of(*_SOURCES), make)
    layout = Layout(os.path.join(directory, "layout"))
    extra = os.path.join(directory, "extra.tar")
    return Image(layout, "python", (base, python)), Image(layout, "related", (base, python, extra))


def _text_file(generator, length):
    words = [bytes(generator.choices(b"etaoin shrdlu\n", k=generator.randint(2, 9)))
             for _ in range(300)]
    made = bytearray()
    while len(made) < length:
        made += generator.choice(words)
    return bytes(made[:length])


def write_small_tree(path, seed, prefix, count=120):
    """Files of many sizes, compressible and not."""
    generator = random.Random(seed)
    with LayerWriter(path, tarfile.GNU_FORMAT if seed % 2 else tarfile.PAX_FORMAT) as layer:
        layer.directory(prefix)
        for number in range(count):
            length = int(2 ** generator.uniform(0, 18))
            make = generator.choice((_text_file, lambda random_, size: random_.randbytes(size)))
            layer.file(f"{prefix}/{number:04}", make(generator, length))
        layer.file(f"{prefix}/zeros", bytes(6 << 20))
        layer.file(f"{prefix}/text", _text_file(generator, 5 << 20))
        layer.hardlink(f"{prefix}/again", f"{prefix}/text")
        layer.symlink(f"{prefix}/link", "text")


def variants():
    """One tree in many compressions: {how: Image}; all tars are the same."""
    def make(directory):
        tars = [os.path.join(directory, name) for name in ("lower.tar", "upper.tar")]
        write_small_tree(tars[0], 1, "lower")
        write_small_tree(tars[1], 2, "upper")
        layout = Layout(os.path.join(directory, "layout"))
        for how in layers.COMPRESSIONS:
            add(layout, how, tars, (how, how), directory)

    directory = workplace.kept("variants", workplace.source_of(*_SOURCES), make)
    tars = tuple(os.path.join(directory, name) for name in ("lower.tar", "upper.tar"))
    layout = Layout(os.path.join(directory, "layout"))
    return {how: Image(layout, how, tars) for how in layers.COMPRESSIONS}


# What for_reading() holds: the form of each layer and its size, unpacked, in MiB.
READING = (("tar", 16), ("gzip", 16), ("gzip-members", 12), ("gzip-independent", 12),
           ("zstd-frames", 16), ("zstd-one-frame", 4))


def _mixed_bytes(generator, length):
    """Some noise, some repetition from near and far: what makes decoders work."""
    data = bytearray(generator.randbytes(min(length, 3000)))
    while len(data) < length:
        if generator.random() < 0.3:
            data += generator.randbytes(generator.randint(1, 2000))
        else:
            start = generator.randrange(max(0, len(data) - 40_000), len(data))
            data += data[start:start + generator.randint(3, 3000)] * generator.choice((1, 1, 1, 20))
    return bytes(data[:length])


def for_reading():
    """An image for reading at random: (Image, {path: content})."""
    def make(directory):
        generator, tars = random.Random(21), []
        for form, mebibytes in READING:
            tars.append(os.path.join(directory, form + ".tar"))
            left, number = mebibytes << 20, 0
            with LayerWriter(tars[-1]) as layer:
                while left > 0:
                    size = min(left, int(2 ** generator.uniform(0, 22)))
                    layer.file(f"{form}/{number:03}", _mixed_bytes(generator, size))
                    left, number = left - size, number + 1
        add(Layout(os.path.join(directory, "layout")), "reading", tars,
            [form for form, _ in READING], directory)

    directory = workplace.kept("reading", workplace.source_of(*_SOURCES), make)
    tars = [os.path.join(directory, form + ".tar") for form, _ in READING]
    contents = {}
    for path in tars:
        with tarfile.open(path) as tar:
            contents |= {entry.name: tar.extractfile(entry).read() for entry in tar}
    return Image(Layout(os.path.join(directory, "layout")), "reading", tars), contents


def small():
    """A small image of two gzip layers, where the content does not matter."""
    return variants()["gzip"]


def multi_platform():
    """An image index of linux/amd64 and linux/arm64/v8; the file /platform tells which."""
    platforms = ({"os": "linux", "architecture": "amd64"},
                 {"os": "linux", "architecture": "arm64", "variant": "v8"})

    def make(directory):
        layout = Layout(os.path.join(directory, "layout"))
        listed = []
        for platform in platforms:
            tar = os.path.join(directory, platform["architecture"] + ".tar")
            with LayerWriter(tar) as layer:
                layer.file("platform", platform["architecture"].encode())
            listed.append((add(layout, None, (tar,), ("gzip",), directory, platform=platform),
                           platform))
        layout.add_image_index(listed, "multi")

    directory = workplace.kept("multi-platform", workplace.source_of(*_SOURCES), make)
    tars = tuple(os.path.join(directory, name) for name in ("amd64.tar", "arm64.tar"))
    return Image(Layout(os.path.join(directory, "layout")), "multi", tars)


def unpacked(image):
    """The root file system that umoci makes of an image: what a mount is compared with."""
    digest = image.layout.find(image.tag)["digest"]

    def make(directory):
        subprocess.run(["umoci", "--log=error", "unpack", "--image",
                        f"{image.layout.directory}:{image.tag}",
                        os.path.join(directory, "bundle")], check=True)

    return os.path.join(workplace.kept("unpacked", "umoci unpack " + digest, make), "bundle",
                        "rootfs")
