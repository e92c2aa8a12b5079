"""containerd's snapshots service, method by method: two of its versions say the same, by its own
overlay snapshotter. So what sluiced is compared with is a contract."""

from tools.newer_debian import NewerDebian
from tools.snapshot_scripts import Conformance, Scripts
from tools.snapshots import Side


# containerd 1.6 has no Cleanup for others to call.
CLEANUP = ("Cleanup", "UNIMPLEMENTED", "done")


class NewerOverlay(Scripts, Conformance):
    """The newer one against that of this Debian."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        debian = NewerDebian(cls.directory)
        cls.addClassCleanup(debian.close)
        cls.channels = (cls.containerd("old"), cls.containerd("new", debian=debian))

    def sides(self):
        name = self._testMethodName
        return [Side("containerd 1.6", self.channels[0], "overlayfs", name),
                Side("containerd 2", self.channels[1], "overlayfs", name, [CLEANUP])]
