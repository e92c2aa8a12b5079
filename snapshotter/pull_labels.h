/* What a client that pulls an image says of the layer that a Prepare is for, in labels. */
#ifndef SLUICE_SNAPSHOTTER_PULL_LABELS_H
#define SLUICE_SNAPSHOTTER_PULL_LABELS_H

#include <stdbool.h>

#include "snapshotter/labels.h"
#include "snapshotter/lazy_source.h"

/* False where `labels` do not say enough: no pull, or one that the snapshotter was told nothing of.
 * Understood are what CRI, the transfer service and most clients send (containerd's
 * pkg/snapshotters/annotations.go), and what ctr-remote, nerdctl and buildkit send for stargz.
 * `parent`: the labels of the snapshot below, NULL for none. `ret` points into what it was made
 * from. */
bool pull_labels_read(const struct labels *labels, const struct labels *parent,
                      struct lazy_layer *ret);

#endif
