/* What kernel and server of a FUSE connection have agreed upon at its start. A server that takes a
 * connection over from another needs it, because the kernel says it only once. */
#ifndef SLUICE_FUSE_FUSE_NEGOTIATED_H
#define SLUICE_FUSE_FUSE_NEGOTIATED_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* The kernel's side, struct fuse_init_in of <linux/fuse.h>: the server's follows from it. */
struct fuse_negotiated {
    uint32_t major, minor, max_readahead, flags, flags2;
};

#define FUSE_NEGOTIATED_TEXT_SIZE 64u

/* Text that fuse_negotiated_parse() reads; returns `ret`, of FUSE_NEGOTIATED_TEXT_SIZE bytes. */
char *fuse_negotiated_format(const struct fuse_negotiated *negotiated, char *ret);
int fuse_negotiated_parse(struct fuse_negotiated *ret, const char *text, struct error **error);
/* Whether the kernel sends requests again when it is told to: Linux 6.9. */
bool fuse_negotiated_resends(const struct fuse_negotiated *negotiated);
/* Whether the kernel can map the owners of files (an id-mapped mount) when the server's answer says
 * that it may: Linux 6.12. Then requests do not tell who asks, and it is the kernel that checks
 * permissions ("default_permissions"). */
bool fuse_negotiated_maps_owners(const struct fuse_negotiated *negotiated);
struct fuse_init_out;
/* Says so in the answer to FUSE_INIT. */
void fuse_negotiated_allow_mapping(struct fuse_init_out *answer);

#endif
