"""Pods and containers by containerd's own snapshotter: what the tests of ours stand on."""

from tools.node import Node, Workloads


class ContainerdAlone(Workloads, Node):
    """The containerd of this Debian."""


class NewerContainerdAlone(Workloads, Node):
    """containerd 2.x, whose CRI pulls by its transfer service."""

    newer = True
