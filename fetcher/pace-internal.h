/*
 * How long a host takes for a range, and from when on one that takes longer is worth another
 * question. On the transfer thread only.
 */
#ifndef SLUICE_FETCHER_PACE_INTERNAL_H
#define SLUICE_FETCHER_PACE_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>

/* Zeroed: nothing is known. */
struct pace {
    uint64_t wait_us, deviation_us; /* from the question to the first byte, smoothed */
    uint64_t bytes_per_ms;          /* of one answer, smoothed; 0: not known */
    unsigned answers;
};

void pace_note_wait(struct pace *pace, uint64_t waited_us);
/* Short answers come out of buffers and are left out. */
void pace_note_rate(struct pace *pace, uint64_t bytes, uint64_t took_ms);

/* Within the patience, so many bytes of a range come, or its rest does. */
#define PACE_PROGRESS (16u << 10)
unsigned pace_patience_ms(const struct pace *pace);

/* How often one more question may be asked: some times at once, and for three questions in a
 * hundred. Where all answers are late, asking more makes it worse. */
struct allowance {
    unsigned spent; /* in parts of a question; zeroed: none */
};
void allowance_earn(struct allowance *allowance);
bool allowance_take(struct allowance *allowance);

#endif
