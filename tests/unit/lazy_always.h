/* A source of lazy images that has every layer, and shows the same directory for all of them. */
#ifndef SLUICE_TESTS_LAZY_ALWAYS_H
#define SLUICE_TESTS_LAZY_ALWAYS_H

#include <string.h>

#include "snapshotter/lazy_source.h"

static inline int lazy_always_start(void *context, const struct lazy_use *uses, size_t count,
                                    struct error **error)
{
    (void)context, (void)uses, (void)count, (void)error;
    return 0;
}

static inline int lazy_always_want(void *context, const struct lazy_layer *layer,
                                   struct lazy_use *ret, struct error **error)
{
    (void)context, (void)layer, (void)error;
    *ret = (struct lazy_use){ 7, 1 };
    return 1;
}

static inline bool lazy_always_used(void *context, const struct lazy_use *use)
{
    (void)context, (void)use;
    return true;
}

static inline void lazy_always_unused(void *context, uint64_t image)
{
    (void)context, (void)image;
}

static inline char *lazy_always_path(void *context, const struct lazy_use *use,
                                     struct error **error)
{
    (void)use, (void)error;
    return strdup(context);
}

static inline struct lazy_source lazy_always(char *directory)
{
    return (struct lazy_source){ directory,        lazy_always_start,  lazy_always_want,
                                 lazy_always_used, lazy_always_unused, lazy_always_path };
}

#endif
