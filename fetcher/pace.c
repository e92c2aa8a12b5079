#include "fetcher/pace-internal.h"

#define TELLING_BYTES   (64u << 10)
#define TELLING_ANSWERS 8u

/* A short pause of a server or of this machine is no reason to ask twice, and who has not answered
 * for seconds may well never do. */
#define PATIENCE_LEAST_MS   250u
#define PATIENCE_MOST_MS    5000u
#define PATIENCE_UNKNOWN_MS 2000u

/* As the retransmission timer of TCP does (RFC 6298): the mean moves by an eighth, the deviation by
 * a quarter. */
void pace_note_wait(struct pace *pace, uint64_t waited_us)
{
    uint64_t apart =
        waited_us > pace->wait_us ? waited_us - pace->wait_us : pace->wait_us - waited_us;
    if (pace->answers == 0) {
        pace->wait_us = waited_us;
        pace->deviation_us = waited_us / 2;
    } else {
        pace->deviation_us += apart / 4 - pace->deviation_us / 4;
        pace->wait_us += waited_us / 8 - pace->wait_us / 8;
    }
    if (pace->answers < TELLING_ANSWERS) pace->answers++;
}

void pace_note_rate(struct pace *pace, uint64_t bytes, uint64_t took_ms)
{
    if (bytes < TELLING_BYTES) return;
    uint64_t rate = bytes / (took_ms ? took_ms : 1);
    pace->bytes_per_ms =
        pace->bytes_per_ms ? pace->bytes_per_ms - pace->bytes_per_ms / 8 + rate / 8 : rate;
}

unsigned pace_patience_ms(const struct pace *pace)
{
    if (pace->answers < TELLING_ANSWERS) return PATIENCE_UNKNOWN_MS;
    uint64_t patience = (pace->wait_us + 4 * pace->deviation_us) / 1000;
    if (pace->bytes_per_ms) patience += UINT64_C(8) * PACE_PROGRESS / pace->bytes_per_ms;
    if (patience < PATIENCE_LEAST_MS) return PATIENCE_LEAST_MS;
    return patience < PATIENCE_MOST_MS ? (unsigned)patience : PATIENCE_MOST_MS;
}

#define PARTS 32u
#define ONCE  4u

void allowance_earn(struct allowance *allowance)
{
    if (allowance->spent > 0) allowance->spent--;
}

bool allowance_take(struct allowance *allowance)
{
    if (allowance->spent + PARTS > ONCE * PARTS) return false;
    allowance->spent += PARTS;
    return true;
}
