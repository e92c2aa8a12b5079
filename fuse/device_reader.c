#include "fuse/device_reader.h"

#include "base/clock.h"

static void add(_Atomic uint64_t *counter, uint64_t count)
{
    atomic_fetch_add_explicit(counter, count, memory_order_relaxed);
}

void device_reader_count(struct device_reader *reader, bool missed, ssize_t result)
{
    if (!reader) return;
    if (missed)
        add(&reader->reads_missed, 1);
    else if (result >= 0)
        add(&reader->reads_hit, 1);
    if (result >= 0) {
        add(&reader->bytes_served, (uint64_t)result);
    } else {
        add(&reader->errors, 1);
        atomic_store_explicit(&reader->failed_at, clock_ms(), memory_order_relaxed);
    }
}
