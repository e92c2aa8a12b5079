"""What goes wrong where several ranges are asked for at once; mixed into the registry with faults.

`self` answers requests, knows the `blob()` that is asked for, and what else registry_faults.py
says of its registry. One range alone is answered well.
"""
import re
import time


class SeveralRanges:
    def several(self):
        """What was asked for; one range is answered here."""
        asked = re.match(r"bytes=(\d+-\d+(?:,\d+-\d+)+)$", self.headers.get("Range", ""))
        if not asked:
            self.good()
            return None
        return [tuple(map(int, pair.split("-"))) for pair in asked[1].split(",")]

    def part(self, first, last, range_of=None):
        return b"\r\n--=a.Boundary'9\r\nContent-Type: application/octet-stream\r\n" + \
            b"Content-Range: bytes %d-%d/300000\r\n\r\n" % (range_of or (first, last)) + \
            self.blob()[first:last + 1]

    def parts(self, *parts, end=b"\r\n--=a.Boundary'9--\r\n", **options):
        self.answer(206, b"".join(parts) + end,
                    [("Content-Type", 'multipart/byteranges; boundary="=a.Boundary\'9"')], **options)

    def fault_several(self):
        asked = self.several()
        if asked:
            self.parts(*(self.part(*pair) for pair in asked))

    def fault_several_shuffled(self):
        asked = self.several()
        if asked:
            self.parts(*(self.part(*pair) for pair in asked[::-1]))

    def fault_several_joined(self):
        """Some in one part, with what is between them."""
        asked = self.several()
        if asked:
            asked.sort()
            self.parts(self.part(asked[0][0], asked[1][1]),
                       *(self.part(*pair) for pair in asked[2:]))

    def fault_several_in_one(self):
        asked = self.several()
        if asked:
            first, last = min(asked)[0], max(asked)[1]
            self.answer(206, self.blob()[first:last + 1],
                        [("Content-Range", "bytes %d-%d/300000" % (first, last))])

    def fault_several_first(self):
        asked = self.several()
        if asked:
            first, last = asked[0]
            self.answer(206, self.blob()[first:last + 1],
                        [("Content-Range", "bytes %d-%d/300000" % (first, last))])

    def fault_several_some(self):
        asked = self.several()
        if asked:
            self.parts(*(self.part(*pair) for pair in asked[:2]))

    def fault_several_refused(self):
        if self.several():
            self.error(416, "RANGE")

    def fault_several_bad_gateway_once(self):
        asked = self.several()
        if asked:
            if self.count("gateway" + self.name) == 0:
                return self.error(502, "GATEWAY")
            self.parts(*(self.part(*pair) for pair in asked))

    def fault_several_truncated_once(self):
        """In the middle of the second part."""
        asked = self.several()
        if not asked:
            return
        if self.count("several" + self.name):
            return self.parts(*(self.part(*pair) for pair in asked))
        body = self.part(*asked[0]) + self.part(*asked[1])[:-10]
        self.parts(body, end=b"", length=len(body) + 1000)
        self.reset()

    def fault_several_reset(self):
        if self.several():
            self.reset()

    def fault_several_hanging(self):
        """The end of the parts never comes."""
        asked = self.several()
        if asked:
            body = b"".join(self.part(*pair) for pair in asked)
            self.parts(body, end=b"", length=len(body) + 20)
            time.sleep(30)

    def fault_several_twice(self):
        asked = self.several()
        if asked:
            self.parts(self.part(*asked[0]), self.part(*asked[0]))

    def fault_several_others(self):
        asked = self.several()
        if asked:
            self.parts(self.part(asked[0][0] + 1, asked[0][1]))

    def fault_several_cut(self):
        """A part that ends in the middle of a range."""
        asked = self.several()
        if asked:
            asked.sort()
            self.parts(self.part(asked[0][0], asked[1][0] + 1))

    def fault_several_long(self):
        asked = self.several()
        if asked:
            first, last = asked[0]
            self.parts(self.part(first, last + 1, range_of=(first, last)), self.part(*asked[1]))

    def fault_several_nothing(self):
        if self.several():
            self.parts()

    def fault_several_no_boundary(self):
        asked = self.several()
        if asked:
            self.answer(206, self.part(*asked[0]), [("Content-Type", "multipart/byteranges")])

    def fault_several_endless(self):
        """Headers of a part that do not end."""
        if not self.several():
            return
        self.send_response(206)
        self.send_header("Content-Type", "multipart/byteranges; boundary=x")
        self.send_header("Connection", "close")
        self.end_headers()
        try:
            self.wfile.write(b"--x\r\n")
            while True:
                self.wfile.write(b"X-More: %s\r\n" % (b"x" * 65536))
        except OSError:
            self.close_connection = True
