/*
 * One merge function, the same in builder and node: the tables of a chain of
 * layers, lowest first, become the EROFS metadata image of the merged tree.
 */
#ifndef SLUICE_INDEX_MERGE_H
#define SLUICE_INDEX_MERGE_H

#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/digest.h"
#include "base/error.h"
#include "index/entry_table.h"

struct merge_layer {
    const struct entry_table *entries;
    uint64_t stream_length;      /* bytes of the device */
    struct digest stream_digest; /* diffID: the device table's tag */
};

/*
 * Applies the layers as an unpacker would, entry by entry in the order of the
 * tar; whiteouts and opaque markers act on lower layers only. Parents that no
 * layer names are directories 0755 root:root with time 0. Symlinks in the
 * parent path of an entry are followed inside the root, as containerd does.
 * Layer i becomes EROFS device i + 1; sparse files share one device behind them,
 * and the sparse map follows the image (index/sparse_map.h). Attributes outside of user., trusted.,
 * security. and the POSIX ACLs have no place in EROFS and are left out.
 * Deterministic to the byte; appended to `ret_erofs`.
 *
 * ERROR_INVALID names layer and entry where an unpacker would fail too: a hard
 * link to nothing or to a directory, a parent that is a file, data behind the
 * end of the layer. ERROR_UNSUPPORTED: more than EROFS_DEVICES_MAX layers, 8 Mi
 * files, 2 TiB in a layer, 256 KiB of attributes in a file, 1 GiB of metadata, a sparse file above
 * 1 PiB, or sparse files whose data is spread over more than 2 TiB.
 */
int merge_layers(const struct merge_layer *layers, size_t count, struct buffer *ret_erofs,
                 struct error **error);

/*
 * What the uppermost of the layers changes in the merge of the others: stacked on their differences
 * by overlayfs, it shows what merge_layers() makes of all. The image has what the layer puts there,
 * the directories that lead to it, with the attributes of the whole tree, and a whiteout of
 * overlayfs (character device 0/0) for each name that it hides. Nothing is marked as opaque. A name
 * that the layer gives to a file of a lower one is a file of its own. The devices are those of
 * merge_layers(). Errors as merge_layers().
 */
int merge_difference(const struct merge_layer *layers, size_t count, struct buffer *ret_erofs,
                     struct error **error);

#endif
