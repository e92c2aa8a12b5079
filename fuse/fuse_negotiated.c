#include "fuse/fuse_negotiated.h"

#include <linux/fuse.h>
#include <stdio.h>

/* FUSE_HAS_RESEND of <linux/fuse.h> since 7.40, in the second half of the flags. */
#define HAS_RESEND2 (1u << 7)
/* FUSE_ALLOW_IDMAP since 7.41 */
#define ALLOW_IDMAP2 (1u << 8)

char *fuse_negotiated_format(const struct fuse_negotiated *negotiated, char *ret)
{
    snprintf(ret, FUSE_NEGOTIATED_TEXT_SIZE, "%u.%u %u %08x %08x", negotiated->major,
             negotiated->minor, negotiated->max_readahead, negotiated->flags, negotiated->flags2);
    return ret;
}

int fuse_negotiated_parse(struct fuse_negotiated *ret, const char *text, struct error **error)
{
    int end = -1;
    /* Numbers that are too large come out as others: of no harm, for all are only asked. */
    /* NOLINTNEXTLINE(cert-err34-c) */
    int count = sscanf(text, "%9u.%9u %10u %8x %8x%n", &ret->major, &ret->minor,
                       &ret->max_readahead, &ret->flags, &ret->flags2, &end);
    if (count == 5 && end > 0 && text[end] == 0 && ret->major == FUSE_KERNEL_VERSION) return 0;
    return error_set(error, ERROR_INVALID, "'%s' is nothing that FUSE has agreed upon", text);
}

bool fuse_negotiated_resends(const struct fuse_negotiated *negotiated)
{
    return (negotiated->flags & FUSE_INIT_EXT) && (negotiated->flags2 & HAS_RESEND2);
}

bool fuse_negotiated_maps_owners(const struct fuse_negotiated *negotiated)
{
    return (negotiated->flags & FUSE_INIT_EXT) && (negotiated->flags2 & ALLOW_IDMAP2);
}

void fuse_negotiated_allow_mapping(struct fuse_init_out *answer)
{
    answer->flags |= FUSE_INIT_EXT;
    answer->flags2 |= ALLOW_IDMAP2;
}
