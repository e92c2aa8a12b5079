"""Throughput of cold reads while some of the registry's answers fail."""

import time

import image
from measure import note, read_everything, size, station

PERCENT_FAILING = (0, 1, 5)


def measure(options):
    raise NotImplementedError


def table(figures):
    yield "", ""
