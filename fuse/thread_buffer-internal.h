/* Memory that a thread uses again and again. */
#ifndef SLUICE_FUSE_THREAD_BUFFER_INTERNAL_H
#define SLUICE_FUSE_THREAD_BUFFER_INTERNAL_H

#include <stddef.h>
#include <stdint.h>

/* A buffer of this thread for `length` bytes; NULL: out of memory. Give it back after use. */
uint8_t *thread_buffer_take(size_t length);
void thread_buffer_give(uint8_t *buffer);

#endif
