"""Tar archives written byte by byte, so that they hold what no archiver writes by itself.

Formats: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Extended Header"; GNU tar manual,
"Basic Tar Format" and "Storing Sparse Files". Names, targets and attributes are bytes.
"""

import os

BLOCK = 512
V7, USTAR, GNU = b"\0" * 8, b"ustar\x0000", b"ustar  \0"
FILE, OLD_FILE, LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO, CONTIGUOUS = (
    b"0", b"\0", b"1", b"2", b"3", b"4", b"5", b"6", b"7")
PAX, PAX_GLOBAL, LONG_NAME, LONG_LINK, OLD_SPARSE = b"x", b"g", b"L", b"K", b"S"


def octal(value, width):
    return b"%0*o\0" % (width - 1, value)


def base_256(value, width):
    """GNU's form for what octal digits cannot tell: big-endian, two's complement, top bit set."""
    number = bytearray(value.to_bytes(width, "big", signed=True))
    number[0] |= 0x80
    return bytes(number)


def number(value, width):
    return octal(value, width) if 0 <= value < 8 ** (width - 1) else base_256(value, width)


def pax_record(key, value):
    """ "LENGTH KEY=VALUE\n", where the length counts itself. """
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest)
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return b"%d" % length + rest


def pax_time(nanoseconds):
    """Seconds with a fraction; before 1970 both count backwards."""
    seconds, fraction = divmod(abs(nanoseconds), 10**9)
    text = b"%d.%09d" % (seconds, fraction) if fraction else b"%d" % seconds
    return b"-" + text if nanoseconds < 0 else text


class TarWriter:
    """One archive. Nothing is added that the caller has not asked for."""

    def __init__(self, path):
        self.file = open(path, "wb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    # ---- the pieces ----

    def raw(self, data):
        self.file.write(data)

    def padded(self, data):
        self.file.write(data)
        self.file.write(bytes(-len(data) % BLOCK))

    def header(self, name, kind=FILE, *, size=0, mode=0o644, uid=0, gid=0, time=1600000000,
               link=b"", magic=USTAR, prefix=b"", device=(0, 0), tail=None, signed=False,
               size_field=None, time_field=None, checksum_form=b"%06o\0 "):
        """A header block. `tail`: what stands behind the device numbers, in place of a prefix."""
        block = bytearray(BLOCK)

        def put(offset, data):
            block[offset:offset + len(data)] = data

        put(0, name[:100])
        put(100, octal(mode, 8))
        put(108, number(uid, 8))
        put(116, number(gid, 8))
        put(124, size_field or number(size, 12))
        put(136, time_field or number(time, 12))
        put(148, b" " * 8)
        put(156, kind)
        put(157, link[:100])
        put(257, magic)
        if magic != V7:
            put(265, b"somebody\0")
            put(297, b"some-group\0")
            put(329, number(device[0], 8))
            put(337, number(device[1], 8))
            put(345, prefix if tail is None else tail)
        total = sum(byte - 256 if signed and byte > 127 else byte for byte in block)
        put(148, checksum_form % total)
        self.raw(block)

    def pax(self, records, kind=PAX, name=b"PaxHeaders/of-the-next"):
        """`records`: (key, value) pairs in the order they are written; keys may come twice."""
        data = b"".join(pax_record(key, value) for key, value in records)
        self.header(name, kind, size=len(data))
        self.padded(data)

    def gnu_long(self, kind, text):
        self.header(b"././@LongLink", kind, size=len(text) + 1, magic=GNU)
        self.padded(text + b"\0")

    def end(self, blocks=2):
        self.raw(bytes(BLOCK * blocks))

    # ---- whole entries, in the form that POSIX has for them ----

    def entry(self, name, kind=FILE, data=b"", *, time_ns=1600000000 * 10**9, xattrs=(), link=b"",
              uid=0, gid=0, records=(), **fields):
        """With a PAX header where, and only where, ustar has no place for something."""
        records = list(records)
        if len(name) > 100:
            records.append((b"path", name))
        if len(link) > 100:
            records.append((b"linkpath", link))
        if time_ns % 10**9 or not 0 <= time_ns < 8**11 * 10**9:
            records.append((b"mtime", pax_time(time_ns)))
        for key, value in ((b"uid", uid), (b"gid", gid)):
            if value >= 8**7:
                records.append((key, b"%d" % value))
        records += [(b"SCHILY.xattr." + key, value) for key, value in xattrs]
        if records:
            self.pax(records)
        self.header(name, kind, size=len(data), link=link, uid=min(uid, 8**7 - 1),
                    gid=min(gid, 8**7 - 1), time=max(0, min(time_ns // 10**9, 8**11 - 1)), **fields)
        self.padded(data)

    def directory(self, name, mode=0o755, **fields):
        self.entry(name, DIRECTORY, mode=mode, **fields)

    def symlink(self, name, target, **fields):
        self.entry(name, SYMLINK, link=target, mode=0o777, **fields)

    def hardlink(self, name, target, **fields):
        self.entry(name, LINK, link=target, **fields)

    def whiteout(self, path):
        directory, name = os.path.split(path)
        self.entry(os.path.join(directory, b".wh." + name))

    def opaque(self, directory):
        self.entry(os.path.join(directory, b".wh..wh..opq"))

    # ---- sparse files ----
    # `segments`: (offset, data), in order; `size`: of the whole file.

    def old_gnu_sparse(self, name, size, segments, **fields):
        """Four segments in the header, 21 in each block behind it."""
        places = b"".join(number(offset, 12) + number(len(data), 12) for offset, data in segments)
        more = places[4 * 24:]
        tail = (octal(0, 12) + octal(0, 12) + octal(0, 12) + bytes(4) + b"\0" +
                places[:4 * 24].ljust(4 * 24, b"\0") + (b"\1" if more else b"\0") + number(size, 12))
        data = b"".join(data for _, data in segments)
        self.header(name, OLD_SPARSE, size=len(data), magic=GNU, tail=tail, **fields)
        while more:
            block, more = more[:21 * 24], more[21 * 24:]
            self.padded(block.ljust(21 * 24, b"\0") + (b"\1" if more else b"\0"))
        self.padded(data)

    def pax_sparse_0_0(self, name, size, segments, **fields):
        records = [(b"GNU.sparse.size", b"%d" % size),
                   (b"GNU.sparse.numblocks", b"%d" % len(segments))]
        for offset, data in segments:
            records += [(b"GNU.sparse.offset", b"%d" % offset),
                        (b"GNU.sparse.numbytes", b"%d" % len(data))]
        self.entry(name, data=b"".join(data for _, data in segments), records=records, **fields)

    def pax_sparse_0_1(self, name, size, segments, **fields):
        places = b",".join(b"%d,%d" % (offset, len(data)) for offset, data in segments)
        records = [(b"GNU.sparse.size", b"%d" % size),
                   (b"GNU.sparse.numblocks", b"%d" % len(segments)),
                   (b"GNU.sparse.name", name), (b"GNU.sparse.map", places)]
        self.entry(b"GNUSparseFile.0/placeholder", data=b"".join(data for _, data in segments),
                   records=records, **fields)

    def pax_sparse_1_0(self, name, size, segments, **fields):
        records = [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"),
                   (b"GNU.sparse.name", name), (b"GNU.sparse.realsize", b"%d" % size)]
        places = b"%d\n" % len(segments) + b"".join(b"%d\n%d\n" % (offset, len(data))
                                                    for offset, data in segments)
        places += bytes(-len(places) % BLOCK)
        self.entry(b"GNUSparseFile.0/placeholder",
                   data=places + b"".join(data for _, data in segments), records=records, **fields)
