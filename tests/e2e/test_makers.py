"""Compressed layers of forms that need an image of their own: extreme, rare or refused."""

import json
import os
import random
import struct
import zlib

from tools import layers, model
from tools.layout import Layout
from tools.tar_writer import TarWriter
from tools.testcase import EndToEnd


def stored(data, last):
    """A deflate block that is not compressed: RFC 1951, 3.2.4."""
    assert len(data) < 65536
    return struct.pack("<BHH", last, len(data), len(data) ^ 0xffff) + data


def block_of_zeros(count):
    """(one deflate block of fixed codes for `count` zeros or a few less, that number).

    RFC 1951, 3.2.6: a zero is 00110000, the longest match 11000101 and its distance 00000; codes
    stand in the stream with their first bit first.
    """
    period = int("00000" "10100011", 2)  # read backwards
    eight = sum(period << 13 * place for place in range(8)).to_bytes(13, "little")
    times = (count - 1) // (8 * 258)
    bits = int.from_bytes(eight * times, "little") << 11
    bits |= int("00001100" "011", 2)  # the zero; fixed codes, the last block
    length = 11 + 104 * times + 7  # seven zeros end the block
    return bits.to_bytes(length // 8 + 1, "little"), 1 + 8 * 258 * times


def gzip_member(deflated, data_checksum, length):
    return (b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + deflated +
            struct.pack("<II", data_checksum, length & 0xffffffff))


class Makers(EndToEnd):
    """Each test makes its layer, mounts it, and compares it with the model."""

    def setUp(self):
        self.work = self.make_directory("work")
        self.tar, self.blob = (os.path.join(self.work, name) for name in ("tar", "blob"))
        self.layout = Layout(os.path.join(self.work, "layout"))

    def write_tar(self, size=3_000_000):
        generator = random.Random(8)
        with TarWriter(self.tar) as tar:
            tar.entry(b"noise", data=generator.randbytes(size // 3))
            tar.entry(b"text", data=bytes(generator.choices(b"some letters", k=size // 3)))
            tar.entry(b"zeros", data=bytes(size // 3))
            tar.end()

    def push_layer(self, media_type):
        self.layout.add_image([(self.tar, self.blob, media_type)], "image")
        return self.push(self.layout, "image", self._testMethodName.replace("_", "-"))

    def check(self, media_type, offsets=()):
        reference = self.push_layer(media_type)
        self.sluice("index", reference)
        point = self.mount(reference, cache=os.path.join(self.work, "cache"))
        # From the end first: nothing has decoded what lies before.
        for path, offset in offsets:
            with open(os.path.join(point, path), "rb", buffering=0) as file:
                self.assertEqual(os.pread(file.fileno(), 1, offset), b"\0")
        self.assertEqual(model.Tree([self.tar]).differences(point), [])
        layer, = json.loads(self.sluice("inspect", reference, "--json").stdout)["layers"]
        self.unmount(point)
        return layer

    def test_zopfli(self):
        self.write_tar(300_000)
        self.check(layers.compress(self.tar, self.blob, "gzip-zopfli"))

    def test_a_block_without_end(self):
        """Deflate sets no bound to a block; decoding can start at its beginning only."""
        deflated, zeros = block_of_zeros(100 << 20)
        size = (zeros - 1024) // 512 * 512
        with TarWriter(self.tar) as tar:
            tar.header(b"zeros", size=size)
            header_end = tar.file.tell()
            tar.raw(bytes(zeros))
        with open(self.tar, "rb") as file:
            data = file.read()
        with open(self.blob, "wb") as file:
            file.write(gzip_member(stored(data[:header_end], 0) + deflated, zlib.crc32(data),
                                   len(data)))
        self.check(layers.GZIP, offsets=(("zeros", size - 1), ("zeros", size // 2)))

    def test_block_borders_everywhere(self):
        """Blocks of no data, of one byte, and stored ones, in no order."""
        self.write_tar(600_000)
        generator = random.Random(9)
        compressor = zlib.compressobj(6, wbits=31)
        with open(self.tar, "rb") as source, open(self.blob, "wb") as target:
            while data := source.read(generator.choice((1, 100, 3000, 40_000))):
                target.write(compressor.compress(data))
                target.write(compressor.flush(generator.choice(
                    (zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH, zlib.Z_PARTIAL_FLUSH, zlib.Z_BLOCK))))
            target.write(compressor.flush())
        self.check(layers.GZIP)

    def test_member_headers_with_everything(self):
        """RFC 1952: extra field, name, comment, header checksum; and members of no data."""
        self.write_tar()
        with open(self.tar, "rb") as source, open(self.blob, "wb") as target:
            for flags in range(32):
                data = source.read(100_000 if flags < 31 else -1)
                header = struct.pack("<BBBBIBB", 0x1f, 0x8b, 8, flags, 0, 0, 255)
                header += struct.pack("<H", 300) + b"e" * 300 if flags & 4 else b""
                header += b"name\xff\0" if flags & 8 else b""
                header += b"comment\0" if flags & 16 else b""
                if flags & 2:
                    header += struct.pack("<H", zlib.crc32(header) & 0xffff)
                deflate = zlib.compressobj(6, wbits=-15)
                target.write(header + deflate.compress(data) + deflate.flush() +
                             struct.pack("<II", zlib.crc32(data), len(data)))
                target.write(gzip_member(b"\3\0", 0, 0))
        self.check(layers.GZIP)

    def test_one_frame_is_said_to_be_one(self):
        self.write_tar(60_000_000)
        media_type = layers.compress(self.tar, self.blob, "zstd-one-frame")
        layer = self.check(media_type, offsets=(("zeros", 19_000_000),))
        self.assertEqual(layer["checkpoints"], 1)
        said = self.sluice("inspect", self.reference(self._testMethodName.replace("_", "-")))
        self.assertIn("read forward as a stream", said.stdout)

    def test_window_that_needs_too_much_memory(self):
        """zstd(1) itself asks for --long=31 to read it."""
        self.write_tar()
        self.fails("index", self.push_layer(layers.compress(self.tar, self.blob, "zstd-2-gib")),
                   says=("layer", "zstd", "memory"))
