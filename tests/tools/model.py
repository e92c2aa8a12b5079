"""What the file tree of an image must be: a tar reader and an unpacker of layers of its own.

Shares nothing with the code under test. Where standards leave something open it does what
docs/formats.md says under "How layers are merged". Names are bytes.

Formats: POSIX.1-2017, pax; GNU tar manual, "Basic Tar Format" and "Storing Sparse Files"; OCI
image specification, "Image Layer Filesystem Changeset".
"""

import base64
import dataclasses
import hashlib
import os
import stat
import struct
import urllib.parse

from tools import tree
from tools.tree import Node

BLOCK = 512


class Refused(Exception):
    """No unpacker can make a tree of this, or none should."""


class NotDirectory(Refused):
    """What a path leads through is a file."""


# ---- one tar: entries ----


@dataclasses.dataclass
class Entry:
    """What one header, with all that precedes it, says."""

    path: bytes = b""
    kind: bytes = b"0"
    mode: int = 0
    owner: tuple = (0, 0)
    time: int = 0  # nanoseconds
    link: bytes = b""
    size: int = 0
    device: tuple = (0, 0)
    xattrs: dict = dataclasses.field(default_factory=dict)
    segments: list = None  # (offset in the file, offset in the tar, length)
    tar: str = None


def _number(field):
    if field[0] & 0x80:
        value = int.from_bytes(field, "big")
        bits = 8 * len(field)
        value &= (1 << bits - 1) - 1
        return value - (1 << bits - 1) if field[0] & 0x40 else value
    digits = field.strip(b" \0").split(b"\0")[0]
    return int(digits or b"0", 8)


def _text(field):
    return field.split(b"\0")[0]


def _pax_records(data):
    while data:
        length, _ = data.split(b" ", 1)
        record, data = data[:int(length)], data[int(length):]
        key, value = record[len(length) + 1:-1].split(b"=", 1)
        yield key, value


def _pax_time(text):
    """Nanoseconds; what is finer is rounded down."""
    negative = text.startswith(b"-")
    seconds, _, fraction = text.lstrip(b"-").partition(b".")
    value = int(seconds) * 10**9 + int(fraction.ljust(9, b"0")[:9])
    if not negative:
        return value
    return -value - (1 if fraction[9:].strip(b"0") else 0)


def _acl(text):
    """SCHILY.acl.*, text as acl_to_text(3) makes it, as the kernel keeps it in an attribute:
    linux/posix_acl_xattr.h. None when somebody is named who has no number."""
    tags = {("user", False): 1, ("user", True): 2, ("group", False): 4, ("group", True): 8,
            ("mask", False): 16, ("other", False): 32}
    entries = []
    for part in text.decode().replace("\n", ",").split(","):
        fields = part.split("#")[0].strip().split(":")
        if fields == [""]:
            continue
        who, name, rights = fields[0], fields[1], fields[2]
        who = {"u": "user", "g": "group", "m": "mask", "o": "other"}.get(who, who)
        identity = 0xffffffff
        if name:
            numeric = name if name.isdigit() else (fields[3] if len(fields) > 3 else "")
            if not numeric.isdigit():
                return None
            identity = int(numeric)
        bits = sum(bit for letter, bit in zip("rwx", (4, 2, 1)) if letter in rights)
        entries.append((tags[who, bool(name)], identity, bits))
    entries.sort()
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, bits, identity)
                                           for tag, identity, bits in entries)


def _xattrs(records):
    found = {}
    for key, value in records:
        if key.startswith(b"SCHILY.xattr."):
            found[key[len(b"SCHILY.xattr."):]] = value
        elif key.startswith(b"LIBARCHIVE.xattr."):
            name = urllib.parse.unquote_to_bytes(key[len(b"LIBARCHIVE.xattr."):])
            found.setdefault(name, base64.b64decode(value + b"=" * (-len(value) % 4)))
        elif key in (b"SCHILY.acl.access", b"SCHILY.acl.default"):
            binary = _acl(value)
            if binary:
                found.setdefault(b"system.posix_acl_" + key.rsplit(b".", 1)[1], binary)
    prefixes = (b"user.", b"trusted.", b"security.")
    whole = (b"system.posix_acl_access", b"system.posix_acl_default")
    return {name: value for name, value in found.items()
            if not name.startswith(b"trusted.overlay.") and
            (name in whole or (name.startswith(prefixes) and name not in prefixes))}


class _Reader:
    """Goes through one tar; what precedes an entry is kept until the entry comes."""

    def __init__(self, path):
        self.path = path
        self.file = open(path, "rb")
        self.globals = {}
        self.forget()

    def forget(self):
        self.records = []
        self.long_name = self.long_link = None

    def padded(self, size):
        data = self.file.read(size)
        self.file.seek(-size % BLOCK, os.SEEK_CUR)
        return data

    def entries(self):
        with self.file:
            while len(block := self.file.read(BLOCK)) == BLOCK and any(block):
                kind, size = block[156:157], _number(block[124:136])
                if kind == b"x":
                    self.records = list(_pax_records(self.padded(size)))
                elif kind == b"g":
                    self.globals.update(_pax_records(self.padded(size)))
                elif kind == b"L":
                    self.long_name = _text(self.padded(size))
                elif kind == b"K":
                    self.long_link = _text(self.padded(size))
                else:
                    yield self.entry(block, kind, size)
                    self.forget()

    def entry(self, block, kind, size):
        entry = Entry(kind=b"0" if kind in b"\x007S" else kind, tar=self.path)
        entry.path, entry.link = _text(block[:100]), _text(block[157:257])
        if block[257:263] == b"ustar\0" and block[345]:
            entry.path = _text(block[345:500]) + b"/" + entry.path
        entry.mode = _number(block[100:108]) & 0o7777
        owner = [_number(block[108:116]), _number(block[116:124])]
        entry.time = _number(block[136:148]) * 10**9
        if kind in b"34":
            entry.device = _number(block[329:337]), _number(block[337:345])

        local = dict(self.records)
        records = {**self.globals, **local}
        valued = {key: value for key, value in records.items() if value}
        entry.path = valued.get(b"path", entry.path)
        entry.link = valued.get(b"linkpath", entry.link)
        size = int(valued.get(b"size", size))
        owner[0] = int(valued.get(b"uid", owner[0]))
        owner[1] = int(valued.get(b"gid", owner[1]))
        if b"mtime" in valued:
            entry.time = _pax_time(valued[b"mtime"])
        entry.owner = tuple(owner)
        # GNU's long names are nearer to the entry than any record.
        if self.long_name:
            entry.path = self.long_name
        if self.long_link:
            entry.link = self.long_link
        entry.xattrs = _xattrs(list(records.items()))
        if kind not in b"123456":
            self.data(entry, block, kind, size, valued)
        if entry.kind == b"0" and entry.path.endswith(b"/"):
            entry.kind = b"5"
        return entry

    def data(self, entry, block, kind, size, records):
        """Notes where the bytes are, and passes over them."""
        entry.size, places = size, None
        if kind == b"S":
            entry.size, places = self.old_sparse(block)
        elif b"GNU.sparse.major" in records:
            entry.path = records[b"GNU.sparse.name"]
            entry.size = int(records[b"GNU.sparse.realsize"])
        elif b"GNU.sparse.size" in records:
            entry.path = records.get(b"GNU.sparse.name", entry.path)
            entry.size = int(records[b"GNU.sparse.size"])
            if b"GNU.sparse.map" in records:
                values = [int(value) for value in records[b"GNU.sparse.map"].split(b",")]
                places = list(zip(values[::2], values[1::2]))
            else:
                places = list(zip(self.repeated(b"GNU.sparse.offset"),
                                  self.repeated(b"GNU.sparse.numbytes")))
        start = self.file.tell()
        if b"GNU.sparse.major" in records:
            places = self.sparse_1_0()
        if places is None:
            places = [(0, size)]
        at, entry.segments = self.file.tell(), []
        for offset, length in places:
            if length:
                entry.segments.append((offset, at, length))
            at += length
        self.file.seek(start + size + -size % BLOCK)

    def repeated(self, wanted):
        return [int(value) for key, value in self.records if key == wanted]

    def old_sparse(self, block):
        places, more, table = [], block[482], block[386:482]
        while True:
            for at in range(0, len(table) - 23, 24):
                if any(table[at:at + 24]):
                    places.append((_number(table[at:at + 12]), _number(table[at + 12:at + 24])))
            if not more:
                return _number(block[483:495]), places
            extension = self.file.read(BLOCK)
            table, more = extension[:504], extension[504]

    def sparse_1_0(self):
        start, values = self.file.tell(), []
        count = int(self.file.readline())
        for _ in range(2 * count):
            values.append(int(self.file.readline()))
        used = self.file.tell() - start
        self.file.seek(-used % BLOCK, os.SEEK_CUR)
        return list(zip(values[::2], values[1::2]))


# ---- many layers: a tree ----


class Inode:
    """A file of any type; a directory has `children`: {name: [inode, layer that put it there]}."""

    def __init__(self, entry=None):
        self.entry = entry or Entry(kind=b"5", mode=0o755)
        self.children = {} if self.entry.kind == b"5" else None


def _components(path):
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise Refused(f"{path!r} climbs")
    return parts


class Unpacker:
    """Applies entries one after the other, as they stand in the layers."""

    def __init__(self):
        self.root = Inode()
        self.layer = 0

    def apply(self, tar_path):
        self.layer += 1
        for entry in _Reader(tar_path).entries():
            self.apply_entry(entry)

    def apply_entry(self, entry):
        parts = _components(entry.path)
        if parts and parts[0].startswith(b".wh..wh.") and parts[0] != b".wh..wh..opq":
            return  # what AUFS kept for itself
        if not parts:
            self.root.entry = entry
            return
        name = parts.pop()
        if name.startswith(b".wh..wh.") and name != b".wh..wh..opq":
            return
        if name.startswith(b".wh."):
            self.apply_marker(parts, name)
            return
        parent = self.directory(parts, make=True)
        if entry.kind == b"1":
            self.hardlink(parent, name, entry)
        else:
            self.put(parent, name, entry)

    def apply_marker(self, parts, name):
        try:
            parent = self.directory(parts, make=True)
        except NotDirectory:
            return  # nothing is below a file
        if name == b".wh..wh..opq":
            self.prune(parent)
        else:
            self.hide(parent, name[4:])

    def directory(self, parts, make):
        """The directory that a path leads to, through symbolic links, never out of the root."""
        trail, todo, links = [self.root], list(reversed(parts)), 0
        missing = []  # names below the last of the trail
        while todo:
            part = todo.pop()
            if part in (b"", b"."):
                continue
            if part == b"..":
                if missing:
                    missing.pop()
                elif len(trail) > 1:
                    trail.pop()
                continue
            child = None if missing else trail[-1].children.get(part)
            if not child:
                missing.append(part)
            elif child[0].children is not None:
                trail.append(child[0])
            elif child[0].entry.kind == b"2":
                links += 1
                if links > 255:
                    raise Refused("symbolic links in a circle")
                target = child[0].entry.link
                if target.startswith(b"/"):
                    trail = [self.root]
                todo += reversed(target.split(b"/"))
            else:
                raise NotDirectory("a parent is a file")
        if missing and not make:
            raise Refused("missing")
        for part in missing:
            inode = Inode()
            trail[-1].children[part] = [inode, self.layer]
            trail.append(inode)
        return trail[-1]

    def put(self, parent, name, entry):
        old = parent.children.get(name)
        if old and entry.kind == b"5" and old[0].children is not None:
            old[0].entry, old[1] = entry, self.layer
        else:
            parent.children[name] = [Inode(entry), self.layer]

    def hardlink(self, parent, name, entry):
        parts = _components(entry.link)
        if not parts:
            raise Refused("a link to the root")
        target = self.link_target(parts)
        old = parent.children.get(name)
        if old and old[0] is not target:
            del parent.children[name]
            target = self.link_target(parts)  # it may have been below
        parent.children[name] = [target, self.layer]

    def link_target(self, parts):
        target = self.directory(parts[:-1], make=False).children.get(parts[-1])
        if not target or target[0].children is not None:
            raise Refused("a link to nothing, or to a directory")
        return target[0]

    def prune(self, directory):
        """Takes away what layers below this one have put into a directory."""
        for name in list(directory.children):
            self.hide(directory, name)

    def hide(self, parent, name):
        child = parent.children.get(name)
        if not child:
            return
        inode, layer = child
        if inode.children is not None:
            self.prune(inode)
        if layer == self.layer:
            return
        if inode.children:
            # It holds something new: as a parent that no layer has named.
            parent.children[name] = [Inode(), self.layer]
            parent.children[name][0].children = inode.children
        else:
            del parent.children[name]


def is_possible(tar_paths):
    """False where somebody refuses to go on."""
    unpacker = Unpacker()
    try:
        for path in tar_paths:
            unpacker.apply(path)
    except Refused:
        return False
    return True


class Content:
    """The bytes of a file: pieces of a tar, zeros between."""

    def __init__(self, entry):
        self.size = entry.size
        self.entry = entry

    def read(self, offset, length):
        data = bytearray(max(0, min(length, self.size - offset)))
        with open(self.entry.tar, "rb") as file:
            for start, place, count in self.entry.segments:
                first, last = max(start, offset), min(start + count, offset + len(data))
                if first < last:
                    file.seek(place + first - start)
                    data[first - offset:last - offset] = file.read(last - first)
        return bytes(data)

    def digest(self):
        digest = hashlib.sha256()
        for offset in range(0, self.size, 1 << 20):
            digest.update(self.read(offset, 1 << 20))
        return digest.hexdigest()


LARGE = 64 << 20  # larger files are not read whole: see places_of()
STEP = 1 << 30
_TYPES = {b"0": stat.S_IFREG, b"2": stat.S_IFLNK, b"3": stat.S_IFCHR, b"4": stat.S_IFBLK,
          b"5": stat.S_IFDIR, b"6": stat.S_IFIFO}


def places_of(content):
    """Ranges of a large file that tell whether it is right: where its pieces begin and end, and
    one in each GiB of the first hundred."""
    edges = {0, content.size, *range(0, min(content.size, 100 * STEP), STEP)}
    for start, _, count in content.entry.segments:
        edges |= {start, start + count}
    for edge in sorted(edges):
        offset = max(0, edge - 70_000)
        yield offset, min(140_000, content.size - offset)


class Tree:
    """`nodes`: {path: tree.Node} as tree.snapshot() has them; `large`: {path: Content}."""

    def __init__(self, tar_paths):
        unpacker = Unpacker()
        for path in tar_paths:
            unpacker.apply(path)
        self.nodes, self.large, self._first, self._names = {}, {}, {}, {}
        self._count(unpacker.root)
        self._add(b".", unpacker.root)

    def _count(self, inode):
        self._names[id(inode)] = self._names.get(id(inode), 0) + 1
        if inode.children is not None:
            for child, _ in inode.children.values():
                self._count(child)

    def _add(self, path, inode):
        name, entry = os.fsdecode(path), inode.entry
        mode = 0o777 if entry.kind == b"2" else entry.mode
        node = Node(_TYPES[entry.kind] | mode, entry.owner, self._names[id(inode)])
        node.time = entry.time
        node.xattrs = {os.fsdecode(key): value for key, value in entry.xattrs.items()}
        self.nodes[name] = node
        if inode.children is not None:
            folders = [child for child, _ in inode.children.values() if child.children is not None]
            node.links = 2 + len(folders)
            for child_name in sorted(inode.children, key=os.fsdecode):
                self._add(child_name if path == b"." else path + b"/" + child_name,
                          inode.children[child_name][0])
            return
        node.same_as = self._first.setdefault(id(inode), name)
        if entry.kind == b"0":
            self._add_content(name, node, Content(entry))
        elif entry.kind == b"2":
            node.target, node.size = os.fsdecode(entry.link), len(entry.link)
        elif entry.kind in b"34":
            node.device = os.makedev(*entry.device)

    def _add_content(self, name, node, content):
        node.size = content.size
        if content.size > LARGE:
            self.large[name] = content
        else:
            node.content = content.digest()

    def differences(self, root):
        """Lines that tell what a directory has otherwise."""
        seen = tree.snapshot(root, largest=LARGE)
        lines = tree.differences(self.nodes, seen, directory_times=True)
        for path, content in self.large.items():
            with open(os.path.join(root, path), "rb", buffering=0) as file:
                lines += [f"{path}: other bytes at {offset}"
                          for offset, length in places_of(content)
                          if os.pread(file.fileno(), length, offset) != content.read(offset, length)]
        return lines
