/* The labels of a snapshot: texts by name, as containerd keeps them. */
#ifndef SLUICE_SNAPSHOTTER_LABELS_H
#define SLUICE_SNAPSHOTTER_LABELS_H

#include <stddef.h>

#include "base/error.h"

#define LABELS_MAX 1024

/* Names that containerd gives a meaning (core/snapshots/snapshotter.go). */
#define LABEL_SNAPSHOT_REF "containerd.io/snapshot.ref" /* the chain ID of what is prepared */
#define LABEL_UID_MAPPING  "containerd.io/snapshot/uidmapping"
#define LABEL_GID_MAPPING  "containerd.io/snapshot/gidmapping"

struct label {
    char *key, *value; /* owned */
};

/* Sorted by key, no key twice, no value empty. A zeroed struct has none. */
struct labels {
    struct label *entries;
    size_t count;
};

/* NULL: there is none. */
const char *labels_get(const struct labels *labels, const char *key);
/* Takes the place of what `key` had; an empty value takes the label away, as in containerd's own
 * store. ERROR_INVALID for an empty key, and for more than LABELS_MAX. */
int labels_set(struct labels *labels, const char *key, const char *value, struct error **error);
int labels_copy(struct labels *ret, const struct labels *labels, struct error **error);
void labels_free(struct labels *labels);
#define cleanup_labels __attribute__((cleanup(labels_free)))

#endif
