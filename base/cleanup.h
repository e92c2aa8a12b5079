/* Attributes that release what a block owns when it is left. */
#ifndef SLUICE_BASE_CLEANUP_H
#define SLUICE_BASE_CLEANUP_H

#include <stdlib.h>
#include <unistd.h>

static inline void cleanup_free_function(void *pointer)
{
    free(*(void **)pointer);
}
#define cleanup_free __attribute__((cleanup(cleanup_free_function)))

static inline void cleanup_close_function(int *descriptor)
{
    if (*descriptor >= 0) close(*descriptor);
}
/* The variable must start at -1 or hold a descriptor. */
#define cleanup_close __attribute__((cleanup(cleanup_close_function)))

/* Hands ownership out of a cleanup variable: `return take_pointer(&made);` */
#define take_pointer(variable)                    \
    __extension__({                               \
        __typeof__(*(variable)) *v_ = (variable); \
        __typeof__(*(variable)) taken_ = *v_;     \
        *v_ = NULL;                               \
        taken_;                                   \
    })

static inline int take_descriptor(int *descriptor)
{
    int taken = *descriptor;
    *descriptor = -1;
    return taken;
}

#endif
