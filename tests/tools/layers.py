"""Layers for images: tars written entry by entry, differences of tars, and ways to compress them."""

import gzip
import hashlib
import io
import os
import shutil
import struct
import subprocess
import tarfile
import tempfile

from tools.layout import Layout

PLAIN = "application/vnd.oci.image.layer.v1.tar"
GZIP = PLAIN + "+gzip"
ZSTD = PLAIN + "+zstd"


class LayerWriter:
    """One layer's tar. Times, owners and modes are what the caller says, nothing of this machine."""

    def __init__(self, path, tar_format=tarfile.PAX_FORMAT):
        self.tar = tarfile.open(path, "w", format=tar_format)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.tar.close()

    def add(self, name, kind=tarfile.REGTYPE, data=b"", **fields):
        entry = tarfile.TarInfo(name)
        entry.type = kind
        entry.mode = fields.pop("mode", 0o755 if kind == tarfile.DIRTYPE else 0o644)
        entry.mtime = fields.pop("mtime", 1600000000)
        xattrs = fields.pop("xattrs", {})
        entry.pax_headers = {
            "SCHILY.xattr." + key: value.decode("utf-8", "surrogateescape")
            for key, value in xattrs.items()
        }
        for key, value in fields.items():
            setattr(entry, key, value)
        entry.size = len(data)
        self.tar.addfile(entry, io.BytesIO(data) if data else None)

    def directory(self, name, **fields):
        self.add(name, tarfile.DIRTYPE, **fields)

    def file(self, name, data=b"", **fields):
        self.add(name, tarfile.REGTYPE, data, **fields)

    def symlink(self, name, target, **fields):
        self.add(name, tarfile.SYMTYPE, linkname=target, mode=0o777, **fields)

    def hardlink(self, name, target, **fields):
        self.add(name, tarfile.LNKTYPE, linkname=target, **fields)

    def device(self, name, kind, major, minor, **fields):
        self.add(name, kind, devmajor=major, devminor=minor, **fields)

    def fifo(self, name, **fields):
        self.add(name, tarfile.FIFOTYPE, **fields)

    def whiteout(self, path):
        directory, name = os.path.split(path)
        self.file(os.path.join(directory, ".wh." + name))

    def opaque(self, directory):
        self.file(os.path.join(directory, ".wh..wh..opq"))


def _digest_of_member(tar, entry):
    if not entry.isreg():
        return None
    digest = hashlib.sha256()
    source = tar.extractfile(entry)
    while block := source.read(1 << 20):
        digest.update(block)
    return digest.digest()


def _what_it_is(tar, entry):
    # The time of a directory says only when something was put into it.
    time = None if entry.isdir() else int(entry.mtime)
    return (entry.type, entry.mode, entry.uid, entry.gid, time, entry.size, entry.linkname,
            _digest_of_member(tar, entry))


def difference(lower_path, upper_path, layer_path):
    """Writes the layer that turns the tree of one tar into that of another."""
    with tarfile.open(lower_path) as lower:
        before = {entry.name: _what_it_is(lower, entry) for entry in lower}
    with tarfile.open(upper_path) as upper, \
            tarfile.open(layer_path, "w", format=tarfile.PAX_FORMAT) as layer:
        names, changed = set(), set()
        for entry in upper:
            names.add(entry.name)
            same = before.get(entry.name) == _what_it_is(upper, entry)
            if same and not (entry.islnk() and entry.linkname in changed):
                continue
            changed.add(entry.name)
            layer.addfile(entry, upper.extractfile(entry) if entry.isreg() else None)
        gone = set(before) - names
        for name in sorted(gone):
            directory, base = os.path.split(name)
            if directory not in gone:
                layer.addfile(tarfile.TarInfo(os.path.join(directory, ".wh." + base)))


def compress(tar_path, blob_path, how):
    """Compresses a tar in one of the forms that layers are found in; returns the media type."""
    with open(tar_path, "rb") as source, open(blob_path, "wb") as target:
        return {**COMPRESSIONS, **RARE_COMPRESSIONS}[how](source, target)


def _pipe(*command):
    def run(source, target):
        subprocess.run(command, stdin=source, stdout=target, check=True)
        return ZSTD if "zstd" in command[0] else GZIP
    return run


def _plain(source, target):
    while block := source.read(1 << 20):
        target.write(block)
    return PLAIN


def _slices(compress_one, media_type, length):
    def run(source, target):
        while block := source.read(length):
            target.write(compress_one(block))
        return media_type
    return run


def _zstd(block):
    return subprocess.run(["zstd", "-q", "-c"], input=block, stdout=subprocess.PIPE,
                          check=True).stdout


def _zstd_of_equal_slices(source, target):
    """Fast where most of a large tar is zeros."""
    before, frame = None, None
    while block := source.read(16 << 20):
        if block != before:
            before, frame = block, _zstd(block)
        target.write(frame)
    return ZSTD


def _followed_by(compress_it, data):
    """Something behind the end of the compressed data."""
    def run(source, target):
        media_type = compress_it(source, target)
        target.write(data)
        return media_type
    return run


def _skippable_frame(data):
    """RFC 8878, 3.1.2"""
    return struct.pack("<II", 0x184D2A50, len(data)) + data


def _zstd_with_skippable_frames(source, target):
    target.write(_skippable_frame(b"before all"))
    while block := source.read(3 << 20):
        target.write(_zstd(block) + _skippable_frame(b"between") + _skippable_frame(b""))
    return ZSTD


def _skopeo(compression):
    """As Go programs compress: skopeo, podman and buildah do it all alike."""
    def run(source, target):
        with tempfile.TemporaryDirectory() as directory:
            layout = Layout(os.path.join(directory, "plain"))
            tar = os.path.join(directory, "tar")
            with open(tar, "wb") as file:
                shutil.copyfileobj(source, file)
            layout.add_image([(tar, tar, PLAIN)], "image")
            subprocess.run(["skopeo", "--insecure-policy", "copy", "--quiet", "--dest-compress",
                            "--dest-compress-format", compression,
                            f"oci:{layout.directory}:image", f"oci:{directory}/made:image"],
                           check=True)
            made = Layout(os.path.join(directory, "made"))
            layer, = made.json(made.find("image")["digest"])["layers"]
            target.write(made.blob(layer["digest"]))
            return layer["mediaType"]
    return run


def _zopfli(source, target):
    """It reads and writes files by name only."""
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "tar")
        with open(path, "wb") as file:
            shutil.copyfileobj(source, file)
        subprocess.run(["zopfli", "--i5", path], check=True)
        with open(path + ".gz", "rb") as file:
            shutil.copyfileobj(file, target)
    return GZIP


_GARBAGE = b"\x1f\x8b what no gzip member begins with" * 100
# Those that every test of compressions goes through.
COMPRESSIONS = {
    "tar": _plain,
    "gzip": _pipe("gzip", "-n"),
    "gzip-best": _pipe("gzip", "-9n"),
    "gzip-fast": _pipe("gzip", "-1n"),
    "gzip-independent": _pipe("pigz", "-n", "-i"),
    "gzip-parallel": _pipe("pigz", "-n", "-p", "2"),
    "gzip-members": _slices(lambda block: gzip.compress(block, mtime=0), GZIP, 700_001),
    "gzip-stored": _slices(lambda block: gzip.compress(block, 0, mtime=0), GZIP, -1),
    "gzip-tiny-members": _slices(lambda block: gzip.compress(block, 1, mtime=0), GZIP, 2000),
    "gzip-isal": _pipe("igzip", "-c"),
    "gzip-bgzip": _pipe("bgzip", "-c"),
    "gzip-go": _skopeo("gzip"),
    "gzip-and-garbage": _followed_by(_pipe("gzip", "-n"), _GARBAGE),
    "gzip-and-zeros": _followed_by(_pipe("gzip", "-n"), bytes(10240)),
    "zstd-frames": _slices(_zstd, ZSTD, 1 << 20),
    "zstd-odd-frames": _slices(_zstd, ZSTD, 333_333),
    "zstd-parallel": _pipe("pzstd", "-q", "-c", "-p", "2"),
    "zstd-one-frame": _pipe("zstd", "-q", "-c"),
    "zstd-tiny-frames": _slices(_zstd, ZSTD, 20_000),
    "zstd-checked": _pipe("zstd", "-q", "-c", "--check"),
    "zstd-long": _pipe("zstd", "-q", "-c", "--long=27", "-9"),
    "zstd-go": _skopeo("zstd"),
    "zstd-skippable": _zstd_with_skippable_frames,
}

RARE_COMPRESSIONS = {
    "gzip-zopfli": _zopfli,
    "zstd-equal-slices": _zstd_of_equal_slices,
    "zstd-2-gib": _pipe("zstd", "-q", "-c", "--long=31"),
}
