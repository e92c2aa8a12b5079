"""Indexes that are right by every digest of their own, and not true of their image.

They are made of what `sluice index` made: docs/formats.md says what the bytes are.
"""

import copy
import hashlib
import json
import struct
import subprocess
import zlib

from tools.layout import MANIFEST

WINDOW = 32768
WINDOWS_PER_GROUP = 8
_HEAD = struct.Struct("<8sIIIQQ32s32sII")


def digest_of(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _unpack(data):
    return subprocess.run(["zstd", "-dc"], input=data, capture_output=True, check=True).stdout


def _pack(data):
    return subprocess.run(["zstd", "-c", f"--stream-size={len(data)}"], input=data,
                          capture_output=True, check=True).stdout


def _read_varint(data, place):
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place


def _varint(value):
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    return bytes(made) + bytes([value])


class _ChunkTable:
    """As in docs/formats.md, "Chunk table"; digests are bytes."""

    def __init__(self, data):
        self.head = list(_HEAD.unpack_from(data))
        place, self.chunks, self.groups, at = _HEAD.size, [], [], 0
        for _ in range(self.head[8]):
            length, place = _read_varint(data, place)
            step, place = _read_varint(data, place)
            at += step
            self.chunks.append((length, at, data[place]))
            place += 1
        for _ in range(self.head[9]):
            length, place = _read_varint(data, place)
            self.groups.append(length)
        digests = [data[i:i + 32] for i in range(place, len(data), 32)]
        self.digests, self.group_digests = digests[:self.head[8]], digests[self.head[8]:]

    def encode(self):
        made, at = [_HEAD.pack(*self.head)], 0
        for length, offset, byte in self.chunks:
            made += [_varint(length), _varint(offset - at), bytes([byte])]
            at = offset
        return b"".join([*made, *map(_varint, self.groups), *self.digests, *self.group_digests])

    def _decode(self, number, blob, window):
        """A chunk that starts inside a deflate stream; None where this simple way does not do: what
        is moved by some bits must have no stored block, which starts at a byte."""
        length, offset, byte = self.chunks[number]
        data = blob[offset:offset + 2 * length + 4096]
        moved = int.from_bytes(data, "little") >> (byte >> 2 & 7)
        try:
            return zlib.decompressobj(-15, zdict=window).decompress(
                moved.to_bytes(len(data), "little"), length)
        except zlib.error:
            return None

    def _change(self, number, ordinal, windows, blob):
        group, place = ordinal // WINDOWS_PER_GROUP, ordinal % WINDOWS_PER_GROUP * WINDOW
        start, end = sum(self.groups[:group]), sum(self.groups[:group + 1])
        content = bytearray(_unpack(windows[start:end]))
        window = content[place:place + WINDOW]
        truth = self._decode(number, blob, bytes(window))
        if truth is None or hashlib.sha256(truth).digest() != self.digests[number]:
            return None
        # Bytes that the chunk does not refer to are 0.
        at = next((i for i in range(WINDOW) if window[i]), None)
        if at is None:
            return None
        window[at] ^= 1
        changed = self._decode(number, blob, bytes(window))
        assert changed != truth
        content[place:place + WINDOW] = window
        packed = _pack(bytes(content))
        self.groups[group] = len(packed)
        self.group_digests[group] = hashlib.sha256(packed).digest()
        self.digests[number] = hashlib.sha256(changed).digest()
        return windows[:start] + packed + windows[end:]

    def change_window(self, windows, blob):
        """Changes a byte of a window; the chunk that needs it becomes another."""
        with_window = [i for i, chunk in enumerate(self.chunks) if chunk[2] & 3 == 1]
        return next(filter(None, (self._change(number, ordinal, windows, blob)
                                  for ordinal, number in enumerate(with_window))))


class Index:
    """An index in a registry, to be changed and pushed as another one."""

    def __init__(self, client, repository, digest):
        self.client, self.repository = client, repository
        self.manifest = json.loads(client.manifest(repository, digest)[0])

    def _part(self, kind, layer=None):
        return next(part for part in self.manifest["layers"] if kind in part["mediaType"] and
                    layer in (None, part["annotations"].get("vnd.sluice.layer")))

    def content(self, kind, layer=None):
        data = self.client.blob(self.repository, self._part(kind, layer)["digest"])
        return data if kind == "windows" else _unpack(data)

    def replace(self, kind, content, layer=None):
        part = self._part(kind, layer)
        blob = content if kind == "windows" else _pack(content)
        part.update(digest=digest_of(blob), size=len(blob))
        part["annotations"]["vnd.sluice.content.digest"] = digest_of(content)
        part["annotations"]["vnd.sluice.content.size"] = str(len(content))
        self.client.push_blob(self.repository, part["digest"], blob, len(blob))

    def push(self):
        body = json.dumps(self.manifest).encode()
        self.client.push_manifest(self.repository, digest_of(body), MANIFEST, body)
        return digest_of(body)


def with_other_bytes(client, repository, digest, layer):
    """In one chunk of this gzip layer other bytes than the image's; returns the index's digest."""
    index = Index(client, repository, digest)
    table = _ChunkTable(index.content("chunks", layer))
    windows = table.change_window(index.content("windows", layer),
                                  client.blob(repository, layer))
    index.replace("windows", windows, layer)
    index.replace("chunks", table.encode(), layer)
    return index.push()


def with_tree_of(client, repository, digest, other_repository, other_digest, entries):
    """The tree of an image whose layers have the same lengths; `entries`: and its entry tables."""
    index = Index(client, repository, digest)
    other = Index(client, other_repository, other_digest)
    index.manifest = copy.deepcopy(index.manifest)
    ours, theirs = bytearray(index.content("metadata")), bytearray(other.content("metadata"))
    # Superblock: the uuid, which is made of the devices' tags; the device table, and its tags.
    theirs[1024 + 48:1024 + 64] = ours[1024 + 48:1024 + 64]
    layers = [part["annotations"]["vnd.sluice.layer"] for part in index.manifest["layers"]
              if "chunks" in part["mediaType"]]
    for number in range(len(layers)):
        tag = 9 * 128 + number * 128
        theirs[tag:tag + 64] = ours[tag:tag + 64]
    index.replace("metadata", bytes(theirs))
    others = [part["annotations"]["vnd.sluice.layer"] for part in other.manifest["layers"]
              if "chunks" in part["mediaType"]]
    for layer, of in zip(layers, others) if entries else ():
        index.replace("entries", other.content("entries", of), layer)
    return index.push()
