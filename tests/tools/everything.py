"""An image of everything that tars and layers can say, for comparing with tools/model.py."""

import base64
import os
import random
import struct
import urllib.parse

from tools import tar_writer
from tools.tar_writer import (CHARACTER, CONTIGUOUS, BLOCK_DEVICE, DIRECTORY, FIFO, FILE, GNU, LINK,
                              LONG_LINK, LONG_NAME, OLD_FILE, PAX_GLOBAL, SYMLINK, USTAR, V7,
                              TarWriter)

# VFS capability, revision 2: cap_net_bind_service, effective.
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
NS = 10**9


def name_of(length, label=b"n"):
    return (label + b"-" + b"x" * length)[:length]


# ---- one layer's headers ----


def _formats(tar):
    """The same things said in each format, and in several at once."""
    tar.directory(b"formats/")
    tar.header(b"formats/v7", OLD_FILE, size=3, magic=V7, uid=7, gid=8)
    tar.padded(b"v7\n")
    tar.header(b"formats/v7-directory/", OLD_FILE, magic=V7, mode=0o700)
    tar.header(b"formats/signed-\xfc\xfd\xfe", size=2, signed=True)
    tar.padded(b"s\n")
    for form in (b"%06o\0 ", b"%06o \0", b"%07o\0", b"%7o\0", b" %5o\0 "):
        name = b"formats/checksum-" + b"".join(b"%02x" % byte for byte in form)
        tar.header(name, checksum_form=form, mode=0o640)
    tar.header(b"formats/spaces", size_field=b"         12 ", time_field=b"   17777 \0\0\0", size=0)
    tar.padded(b"ten bytes.")
    tar.header(b"formats/no-terminator", size_field=b"000000000005", time_field=b"13727410000 ")
    tar.padded(b"five.")
    deep = b"/".join(name_of(30, b"p%d" % level) for level in range(4))
    tar.header(b"in-the-name", size=6, prefix=b"formats/" + deep)
    tar.padded(b"prefix")
    # Full fields have no NUL.
    tar.header(name_of(100, b"of-100"), prefix=b"formats", mode=0o600)
    tar.header(name_of(100, b"q"), prefix=b"formats/" + name_of(146, b"r"), mode=0o600)
    # In GNU's format, what stands in the place of a prefix is none.
    tar.header(b"formats/gnu-has-no-prefix", magic=GNU, tail=b"14000000000\x0014000000000\0")
    tar.gnu_long(LONG_NAME, b"formats/gnu-" + b"/".join([name_of(120, b"long")] * 3))
    tar.header(b"formats/short", size=4, magic=GNU)
    tar.padded(b"gnu\n")
    tar.gnu_long(LONG_LINK, b"/" + name_of(200, b"gnu-target"))
    tar.gnu_long(LONG_NAME, b"formats/" + name_of(200, b"gnu-both"))
    tar.header(b"short", SYMLINK, link=b"short", magic=GNU)
    # Said twice: the last holds. Said in both ways: GNU's holds.
    tar.gnu_long(LONG_NAME, b"formats/gnu-first")
    tar.gnu_long(LONG_NAME, b"formats/gnu-second")
    tar.header(b"formats/gnu-neither", magic=GNU)
    tar.pax([(b"path", b"formats/pax-and-gnu-pax"), (b"mtime", b"1234567890.5")])
    tar.gnu_long(LONG_NAME, b"formats/pax-and-gnu-gnu")
    tar.header(b"formats/pax-and-gnu-neither")
    tar.gnu_long(LONG_NAME, b"formats/gnu-and-pax-gnu")
    tar.pax([(b"path", b"formats/gnu-and-pax-pax"), (b"mtime", b"1234567890.5")])
    tar.header(b"formats/gnu-and-pax-neither")
    tar.pax([(b"path", b"formats/first-header"), (b"uid", b"4001")])
    tar.pax([(b"path", b"formats/second-header"), (b"gid", b"4002")])
    tar.header(b"formats/no-header")
    tar.pax([(b"path", b"formats/key-1"), (b"path", b"formats/key-2"), (b"uid", b"1"),
             (b"uid", b"5002")])
    tar.header(b"formats/key-0")
    tar.pax([(b"path", b""), (b"uid", b""), (b"mtime", b"")])
    tar.header(b"formats/empty-values", uid=77, time=1500000000)
    tar.pax([(b"comment", b"of no use"), (b"VENDOR.unknown", b"\0\n=\xff"), (b"atime", b"1.5"),
             (b"ctime", b"2.5"), (b"uname", "größe".encode()), (b"hdrcharset", b"BINARY")])
    tar.header(b"formats/unknown-keys")
    tar.pax([])
    tar.header(b"formats/empty-header")


def _of_gnu_tar(tar):
    """What GNU tar takes and umoci does not."""
    tar.hardlink(b"merge/file", b"merge/file")  # to itself
    tar.header(b"contiguous", CONTIGUOUS, size=4)
    tar.padded(b"next")


def _global_headers(tar):
    tar.directory(b"global")
    tar.pax([(b"uid", b"9001"), (b"mtime", b"1111111111.25"), (b"comment", b"c")], PAX_GLOBAL)
    tar.header(b"global/first")
    tar.pax([(b"uid", b"9002"), (b"SCHILY.xattr.user.all", b"of them")], PAX_GLOBAL)
    tar.header(b"global/second", time=5)
    tar.pax([(b"uid", b"9003")])
    tar.header(b"global/own")
    tar.pax([(b"uid", b""), (b"mtime", b""), (b"SCHILY.xattr.user.all", b"")], PAX_GLOBAL)
    tar.header(b"global/taken-back", uid=12)


def _names(tar):
    tar.directory(b"./names/")
    tar.entry(b"./names/dot", data=b"1")
    tar.entry(b"/names/absolute", data=b"2")
    tar.entry(b".//names/././doubled//slashes", data=b"3")
    tar.directory(b"names/directory-with-slashes///")
    tar.entry(b"names/\xff\xfe not UTF-8 \x80", data=b"4")
    tar.entry(b"names/latin-1-\xe9-" + b"\xe9" * 150, data=b"5")
    tar.symlink(b"names/link-\xe9", b"\xff\xfe not UTF-8 \x80")
    tar.entry("names/Grüße, 世界 🌍".encode(), data=b"6")
    tar.entry(b"names/new\nline\ttab \\back'\"*?[", data=b"7")
    tar.entry(b"names/" + b"".join(bytes([code]) for code in range(1, 256) if code != 47),
              data=b"8")
    tar.entry(b"names/ leading and trailing ", data=b"9")
    tar.entry(b"names/...", data=b"10")
    tar.entry(b"names/" + b"n" * 255, data=b"11")
    tar.entry(b"/".join([b"names"] + [name_of(250, b"%d" % level) for level in range(15)]) + b"/f",
              data=b"12")
    tar.entry(b"names/.wh", data=b"no whiteout")
    tar.entry(b"names/.whx", data=b"none either")
    tar.symlink(b"names/long-target", b"/".join([b"t" * 250] * 16)[:4095])
    tar.symlink(b"names/target-511", b"t" * 511)
    tar.symlink(b"names/target-512", b"t" * 512)
    tar.symlink(b"names/climbs", b"../../../../etc/passwd")
    tar.symlink(b"names/to-itself", b"to-itself")


def _numbers(tar):
    tar.directory(b"numbers", mode=0o1777)
    for uid, gid in ((65535, 65536), (2097151, 2097152), (2147483647, 2147483648),
                     (4000000000, 4294967294)):
        tar.entry(b"numbers/pax-ids-%d" % uid, uid=uid, gid=gid)
        tar.header(b"numbers/gnu-ids-%d" % uid, magic=GNU, uid=uid, gid=gid)
    for mode in (0, 0o1, 0o4755, 0o2755, 0o1755, 0o7777, 0o100644):
        tar.header(b"numbers/mode-%o" % mode, mode=mode)
    for time in (0, 1, -1, 2**31 - 1, 2**31, 2**32, -2**31, 8**11 - 1, 8**11, 253402300799):
        tar.header(b"numbers/gnu-time-%d" % time, magic=GNU, time=time)
        tar.entry(b"numbers/pax-time-%d" % time, time_ns=time * NS)
    for time in (1, 999_999_999, 1600000000 * NS + 123456789, -1, -999_999_999, -NS - 1,
                 -5 * NS // 4, 2**31 * NS + 1):
        tar.entry(b"numbers/fraction-%d" % time, time_ns=time)
    for text in (b"1.5", b"1.", b"0.000000001", b"1.0000000019", b"-1.0000000019", b"-0.5", b"-1.5",
                 b"1234567890.1234567891234"):
        tar.pax([(b"mtime", text)])
        tar.header(b"numbers/time-" + text)
    tar.pax([(b"size", b"5")])
    tar.header(b"numbers/size-in-pax", size=0)
    tar.padded(b"five.")
    tar.header(b"numbers/size-in-base-256", magic=GNU,
               size_field=tar_writer.base_256(5, 12))
    tar.padded(b"five.")
    # Sizes of what has no data are not followed by any.
    tar.header(b"numbers/link-with-size", LINK, size=3, link=b"numbers/size-in-pax")
    tar.header(b"numbers/symlink-with-size", SYMLINK, size=7, link=b"nowhere")
    tar.header(b"numbers/directory-with-size", DIRECTORY, size=4096, mode=0o755)
    tar.header(b"numbers/fifo-with-size", FIFO, size=1)
    tar.header(b"numbers/null", CHARACTER, device=(1, 3), mode=0o666)
    tar.header(b"numbers/large-device", BLOCK_DEVICE, device=(4095, 1048575), mode=0o660)
    tar.header(b"numbers/device-300", BLOCK_DEVICE, device=(259, 300), magic=GNU)
    tar.header(b"numbers/fifo", FIFO, mode=0o622)


def _contents(tar):
    generator = random.Random(3)
    tar.directory(b"contents")
    for size in (0, 1, 511, 512, 513, 4095, 4096, 4097, 65536, (1 << 20) - 1, (1 << 20) + 1):
        tar.entry(b"contents/%d" % size, data=generator.randbytes(size))
    tar.entry(b"contents/zeros", data=bytes(9 << 20))
    tar.entry(b"contents/noise", data=generator.randbytes(5_000_001))
    words = [generator.randbytes(generator.randint(2, 9)) for _ in range(500)]
    tar.entry(b"contents/text", data=b" ".join(generator.choices(words, k=1_000_000)))


def _attributes(tar):
    tar.directory(b"attributes", xattrs=[(b"user.of-a-directory", b"d")])
    long_value = random.Random(4).randbytes(3000)
    tar.entry(b"attributes/file", xattrs=[
        (b"user.text", b"value"), (b"user.empty", b""), (b"user.binary", bytes(range(256))),
        (b"user.equals=sign", b"a=b=c"), (b"user.long", long_value), (b"trusted.ours", b"t\0"),
        ("user.größe".encode(), b"1"), (b"user." + b"n" * 250, b"long name")])
    tar.entry(b"attributes/capable", data=b"\x7fELF", mode=0o755,
              xattrs=[(b"security.capability", CAPABILITY)])
    tar.entry(b"attributes/labelled", xattrs=[(b"security.selinux", b"system_u:object_r:t:s0\0")])
    tar.entry(b"attributes/dropped", xattrs=[
        (b"trusted.overlay.opaque", b"y"), (b"trusted.overlay.redirect", b"/etc"),
        (b"trusted.overlay.metacopy", b""), (b"user.kept", b"k")])
    tar.entry(b"attributes/nowhere-to-keep", xattrs=[
        (b"system.nfs4_acl", b"x"), (b"com.apple.quarantine", b"x"), (b"user.kept", b"k")])
    tar.symlink(b"attributes/link", b"file", xattrs=[(b"trusted.of-a-link", b"l")])
    tar.entry(b"attributes/fifo", FIFO, xattrs=[(b"trusted.of-a-fifo", b"f")])
    for number in range(30):  # the same small sets again and again
        tar.entry(b"attributes/shared-%d" % number, xattrs=[(b"user.same", b"s" * (number % 3))])


def _more_attributes(tar):
    """More than ext4 has room for."""
    tar.entry(b"many-attributes", xattrs=[(b"user.%03d" % number, b"%d" % number)
                                          for number in range(200)])
    tar.entry(b"long-attributes", xattrs=[(b"user.%d" % number, random.Random(number).randbytes(
        30000)) for number in range(4)])


def _pax_acl(*entries):
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def _acls(tar):
    """Access lists as text, with numbers in place of names, and as binary attributes."""
    nobody = 0xffffffff
    binary = _pax_acl((1, 6, nobody), (2, 7, 1000), (4, 4, nobody), (16, 7, nobody), (32, 4, nobody))
    tar.directory(b"acls", xattrs=[])
    tar.entry(b"acls/binary", mode=0o674, xattrs=[(b"system.posix_acl_access", binary)])
    text = b"user::rw-,user:1000:rwx,group::r--,group:4000000000:r-x,mask::rwx,other::r--"
    tar.entry(b"acls/text", mode=0o674, records=[(b"SCHILY.acl.access", text)])
    named = b"user::rw-,user:somebody:rwx:1001,group::r--,mask::rwx,other::r--"
    tar.entry(b"acls/text-with-fourth-field", mode=0o674, records=[(b"SCHILY.acl.access", named)])
    tar.directory(b"acls/directory", records=[
        (b"SCHILY.acl.default", b"user::rwx,user:5:r-x,group::r-x,mask::r-x,other::---")])


def _libarchive(tar):
    tar.directory(b"libarchive")

    def record(name, value):
        return (b"LIBARCHIVE.xattr." + urllib.parse.quote_from_bytes(name).encode(),
                base64.b64encode(value).rstrip(b"="))

    tar.entry(b"libarchive/alone", records=[record(b"user.one", b"\0\1\2"),
                                            record(b"user.per%cent", b"two")])
    tar.entry(b"libarchive/both", records=[record(b"user.same", b"same"),
                                           (b"SCHILY.xattr.user.same", b"same")])
    tar.entry(b"libarchive/overlay", records=[record(b"trusted.overlay.opaque", b"y")])


def sparse_segments(generator, count, size, aligned):
    """[(offset, data)] in order, apart from each other."""
    unit = 512 if aligned else 1
    places = sorted(generator.sample(range(0, size // unit // 2 - 1), count))
    return [(2 * place * unit, generator.randbytes(min(generator.choice((1, 511, 512, 3000)),
                                                       2 * unit if count > 1 else 3000)))
            for place in places]


def sparse(tar):
    generator = random.Random(5)
    tar.directory(b"sparse")
    forms = (tar.old_gnu_sparse, tar.pax_sparse_0_0, tar.pax_sparse_0_1, tar.pax_sparse_1_0)
    for form in forms:
        def add(name, size, segments, form=form):
            form(b"sparse/" + form.__name__.encode() + b"-" + name, size, segments)
        add(b"start", 100_000, [(0, b"at the start")])
        add(b"end", 100_000, [(99_000, b"e" * 1000)])
        add(b"middle", 1_000_000, [(123_456, b"somewhere")])
        add(b"hole-at-end", 70_000, [(0, b"a" * 600), (70_000, b"")])
        add(b"only-a-hole", 50_000, [])
        add(b"only-a-hole-said", 50_000, [(50_000, b"")])
        add(b"whole", 2000, [(0, b"w" * 2000)])
        add(b"adjacent", 3000, [(100, b"1" * 100), (200, b"2" * 300), (1000, b"3" * 2000)])
        add(b"nothing", 0, [])
        for count in (4, 5, 25, 26, 60):
            add(b"%d-segments" % count, 1_000_000,
                sparse_segments(generator, count, 1_000_000, True))
        add(b"unaligned", 500_000, sparse_segments(generator, 300, 500_000, False))
        add(b"9-gib", 9 << 30, [(0, b"first"), (5 << 30, b"f" * 5000), ((9 << 30) - 3, b"end")])
        add(b"1-tib", 1 << 40, [(1000, b"low"), (1 << 39, b"middle"), ((1 << 40) - 1, b"z")])
    tar.old_gnu_sparse(b"sparse/before", 10_000, [(5000, b"b")], time=1234)
    tar.entry(b"sparse/behind", data=b"an ordinary one after it")


# ---- layers above others ----


def _lower(tar):
    for name in (b"replaced", b"kept", b"hidden", b"opaque", b"late-opaque", b"part"):
        tar.directory(b"merge/" + name, mode=0o750, uid=5)
        tar.entry(b"merge/" + name + b"/file", data=name)
        tar.directory(b"merge/" + name + b"/sub", mode=0o700, gid=6)
        tar.entry(b"merge/" + name + b"/sub/file", data=b"sub " + name)
    for name in (b"file", b"becomes-directory", b"becomes-link", b"linked", b"linked-then-gone",
                 b"gone", b"gone-and-back", b"back-and-gone"):
        tar.entry(b"merge/" + name, data=b"lower " + name, mode=0o604)
    tar.symlink(b"merge/link", b"kept")
    tar.symlink(b"merge/absolute", b"/merge/kept/sub")
    tar.symlink(b"merge/to-nothing", b"made/on/the/way")
    tar.symlink(b"merge/outside", b"../../../merge/part")
    tar.symlink(b"merge/link-that-becomes-directory", b"kept")
    tar.symlink(b"merge/chain-1", b"chain-2")
    tar.symlink(b"merge/chain-2", b"chain-3/sub")
    tar.symlink(b"merge/chain-3", b"part/../kept")
    tar.entry(b"merge/twice", data=b"first")
    tar.entry(b"merge/twice", data=b"second", mode=0o611)
    tar.directory(b"merge/directory-twice", mode=0o711, xattrs=[(b"user.a", b"1")])
    tar.entry(b"merge/directory-twice/inside")
    tar.directory(b"merge/directory-twice", mode=0o722, xattrs=[(b"user.b", b"2")])
    tar.entry(b"merge/file-then-directory", data=b"f")
    tar.directory(b"merge/file-then-directory")
    tar.directory(b"merge/directory-then-file")
    tar.entry(b"merge/directory-then-file/inside")
    tar.entry(b"merge/directory-then-file", data=b"a file")
    tar.entry(b"merge/two/missing/parents", data=b"p")
    tar.entry(b"merge/named-after/child", data=b"c")
    tar.directory(b"merge/named-after", mode=0o700, uid=9, time_ns=77 * NS)


def _middle(tar):
    tar.entry(b"merge/replaced", data=b"a file where a directory was")
    tar.directory(b"merge/becomes-directory", mode=0o555)
    tar.entry(b"merge/becomes-directory/inside")
    tar.symlink(b"merge/becomes-link", b"file")
    tar.directory(b"merge/link-that-becomes-directory")
    tar.directory(b"merge/kept", mode=0o777, uid=100, gid=200, time_ns=5 * NS + 5,
                  xattrs=[(b"user.new", b"n")])
    tar.entry(b"merge/link/through-the-link", data=b"t")
    tar.entry(b"merge/absolute/through-an-absolute-link", data=b"t")
    tar.entry(b"merge/to-nothing/end", data=b"t")
    tar.entry(b"merge/outside/inside-all-the-same", data=b"t")
    tar.entry(b"merge/chain-1/at-the-end", data=b"t")
    tar.whiteout(b"merge/gone")
    tar.whiteout(b"merge/hidden")
    tar.whiteout(b"merge/never-was")
    tar.whiteout(b"merge/in/no/directory")
    tar.opaque(b"merge/opaque")
    tar.entry(b"merge/opaque/new", data=b"n")
    tar.entry(b"merge/late-opaque/new", data=b"n")
    tar.opaque(b"merge/late-opaque")
    tar.whiteout(b"merge/gone-and-back")
    tar.entry(b"merge/gone-and-back", data=b"back")
    tar.entry(b"merge/back-and-gone", data=b"still here")
    tar.whiteout(b"merge/back-and-gone")
    tar.entry(b"merge/part/sub/new", data=b"n")
    tar.whiteout(b"merge/part/sub/file")
    tar.header(b"./merge/part/.wh.file", size=5)  # a whiteout with data
    tar.padded(b"data\n")
    # Hard links: down, before the target goes, to links, to what is not a file.
    tar.hardlink(b"merge/link-of-lower", b"merge/linked")
    tar.hardlink(b"merge/third-name", b"/./merge//link-of-lower")
    tar.hardlink(b"merge/of-linked-then-gone", b"merge/linked-then-gone")
    tar.whiteout(b"merge/linked-then-gone")
    tar.hardlink(b"merge/of-a-symlink", b"merge/chain-1")
    tar.hardlink(b"merge/through-a-link", b"merge/link/file")
    tar.header(b"merge/a-fifo", FIFO)
    tar.hardlink(b"merge/of-a-fifo", b"merge/a-fifo")
    tar.header(b"merge/a-device", CHARACTER, device=(1, 5))
    tar.hardlink(b"merge/of-a-device", b"merge/a-device")
    tar.hardlink(b"merge/made/on/the/way/link", b"merge/linked", mode=0o777, uid=44)
    tar.hardlink(b"merge/becomes-directory/inside", b"merge/linked")
    tar.entry(b".wh..wh.aufs", data=b"of AUFS")
    tar.entry(b".wh..wh.plnk/1.2", data=b"of AUFS")
    tar.entry(b"merge/.wh..wh.odd", data=b"of nobody")


def _upper(tar):
    tar.entry(b"merge/linked", data=b"a file of its own now")
    tar.directory(b"merge/replaced")
    tar.entry(b"merge/replaced/again", data=b"a directory again")
    tar.entry(b"merge/hidden/back", data=b"a new directory")
    tar.directory(b"merge/opaque")
    tar.opaque(b"merge/opaque/sub")
    tar.hardlink(b"merge/linked-2", b"merge/linked")
    tar.whiteout(b"merge/becomes-directory")
    tar.entry(b"merge/becomes-directory/only-this", data=b"o")
    tar.opaque(b"merge/kept/sub")
    tar.directory(b"./", mode=0o751, time_ns=1700000000 * NS + 7)


def _opaque_root(tar):
    """Nothing of what is below remains."""
    tar.opaque(b"")
    tar.entry(b"only", data=b"this")


# A line for each layer, lowest first.
LAYERS = ((_formats, _names, _numbers), (_contents, _attributes, _more_attributes, _lower), (),
          (_middle, sparse), (_of_gnu_tar, _acls, _libarchive, _global_headers), (_upper,))


# What umoci gives up at, or has no room for.
NOT_FOR_UMOCI = (_of_gnu_tar, _global_headers, _more_attributes, _acls, _libarchive, sparse)


def write(directory, without=(), layers=LAYERS):
    """Writes the tars, lowest layer first; returns their paths."""
    paths = []
    for number, parts in enumerate(layers):
        path = os.path.join(directory, f"{number}.tar")
        with TarWriter(path) as tar:
            for part in parts:
                if part not in without:
                    part(tar)
            if number % 3 != 2:  # an end is not needed
                tar.end(2 if number % 2 else 20)
            if number == 1:
                tar.raw(b"what stands behind the end is nobody's business\n" * 30)
        paths.append(path)
    return paths
