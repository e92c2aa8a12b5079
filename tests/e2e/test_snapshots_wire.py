"""containerd's snapshots service as bytes: batches, and requests that no proper client sends."""

import grpc

from tools.services import connect
from tools.sluiced import Sluiced
from tools.snapshots import SERVICE, service_at
from tools.testcase import EndToEnd


def field(number, data):
    """A protobuf field of less than 128 bytes."""
    return bytes([number << 3 | 2, len(data)]) + data


class SnapshotsWire(EndToEnd):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.daemon = Sluiced(cls.directory)
        cls.addClassCleanup(cls.daemon.stop)
        cls.channel = connect(cls.daemon.address)
        cls.addClassCleanup(cls.channel.close)
        cls.service = service_at(cls.channel)

    def call_raw(self, method, data):
        return self.channel.unary_unary(f"/{SERVICE}/{method}")(data, timeout=60)

    def expect(self, code, method, data):
        with self.assertRaises(grpc.RpcError) as caught:
            self.call_raw(method, data)
        self.assertEqual(code, caught.exception.code(), caught.exception.details())
        return caught.exception.details()

    def test_a_list_comes_in_batches(self):
        names = {f"batch-{number}" for number in range(250)}
        for name in names:
            self.service.call("Prepare", key=name, labels={"of": "batch"})
        batches = self.service.call("List", filters=["labels.of==batch"])
        self.assertEqual([100, 100, 50], [len(batch.info) for batch in batches])
        self.assertEqual(names, {info.name for batch in batches for info in batch.info})
        self.assertEqual([], self.service.call("List", filters=["labels.of==nothing"]))
        # Whatever labels there are, no message becomes larger than gRPC's clients take.
        for number in range(40):
            labels = {f"{number}-{label}": "x" * 4000 for label in range(50)}
            self.service.call("Prepare", key=f"large-{number}", labels={**labels, "of": "large"})
        batches = self.service.call("List", filters=["labels.of==large"])
        self.assertEqual(40, sum(len(batch.info) for batch in batches))
        self.assertGreater(len(batches), 4)

    def test_what_is_no_request(self):
        self.expect(grpc.StatusCode.INVALID_ARGUMENT, "Prepare", b"\xff\xff")
        self.expect(grpc.StatusCode.INVALID_ARGUMENT, "Stat", b"\x12\x09cut")
        self.expect(grpc.StatusCode.INVALID_ARGUMENT, "Update", b"")
        self.expect(grpc.StatusCode.UNIMPLEMENTED, "Nothing", b"")
        # A text with a NUL is not taken for what stands before it.
        self.call_raw("Prepare", field(2, b"nul"))
        for method in ("Stat", "Remove", "Mounts"):
            text = self.expect(grpc.StatusCode.INVALID_ARGUMENT, method, field(2, b"nul\0more"))
            self.assertIn("NUL", text)
        label = field(1, b"key") + field(2, b"a\0b")
        self.expect(grpc.StatusCode.INVALID_ARGUMENT, "View", field(2, b"labels") + field(4, label))
        # Fields that later versions have do not matter.
        self.call_raw("Stat", field(2, b"nul") + field(15, b"later") + b"\x70\x01")
        # Empty labels by the million take two bytes each, but not here.
        self.expect(grpc.StatusCode.INVALID_ARGUMENT, "Prepare", b"\x22\x00" * 1000000)
        self.assertIsNone(self.daemon.process.poll())

    def test_texts_of_errors(self):
        text = self.expect(grpc.StatusCode.NOT_FOUND, "Stat", field(2, "nö \"100 %\"".encode()))
        self.assertIn("nö \"100 %\"", text)
