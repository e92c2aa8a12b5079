"""sluiced's snapshots service, method by method: the same calls to containerd's own overlay
snapshotter and to ours come to the same."""

import os

from tools import sluiced
from tools.newer_debian import NewerDebian
from tools.services import connect
from tools.snapshot_scripts import Conformance, RemapScripts, Scripts
from tools.snapshots import Side

# Of what is no mapping of ids, containerd 2.x says that it does not know what is wrong.
OURS = [(r"Prepare wrong .*", "UNKNOWN", "INVALID_ARGUMENT")]
# Asked without containerd: what that answers itself. (1.6 has no Cleanup for others to call, and of
# what is no filter says that it does not know.)
ALONE = [*OURS, ("Cleanup", "UNIMPLEMENTED", "done"),
         (r"Update  \(.*", "INVALID_ARGUMENT", "NOT_FOUND"),
         (r"List .*", "UNKNOWN", "INVALID_ARGUMENT")]


class Sluiced(Scripts, Conformance):
    """Ours: through containerd, which keeps names and labels itself, and asked directly."""

    newer = False

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        debian = None
        if cls.newer:
            debian = NewerDebian(cls.directory)
            cls.addClassCleanup(debian.close)
        of_containerd, alone = (cls.sluiced(name) for name in ("of-containerd", "alone"))
        cls.through = cls.containerd("containerd", proxies={"sluice": of_containerd.address},
                                     debian=debian)
        cls.direct = connect(alone.address)
        cls.addClassCleanup(cls.direct.close)

    @classmethod
    def sluiced(cls, name):
        """One that containerd has for itself: it removes what it does not know of."""
        directory = os.path.join(cls.directory, name)
        os.mkdir(directory)
        made = sluiced.Sluiced(directory)
        cls.addClassCleanup(made.stop)
        return made

    def sides(self):
        name = self._testMethodName
        return [Side("containerd", self.through, "overlayfs", name),
                Side("sluiced by containerd", self.through, "sluice", name, OURS),
                Side("sluiced", self.direct, "sluice", allowed=ALONE)]


class SluicedByNewer(RemapScripts, Sluiced):
    """By containerd 2.x, which knows of mapped users."""

    newer = True
