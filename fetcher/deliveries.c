#include "fetcher/deliveries-internal.h"

#include <stdlib.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "fetcher/host-internal.h"

void deliveries_note(struct deliveries *deliveries, struct registry_host *host,
                     const struct digest *digest, uint64_t offset, uint64_t length)
{
    struct delivery *delivery = deliveries->kept;
    for (size_t i = 0; i < DELIVERIES_KEPT; i++, delivery++) {
        if (delivery->host != host || delivery->end != offset ||
            !digest_equal(&delivery->digest, digest))
            continue;
        delivery->end += length;
        return;
    }
    delivery = &deliveries->kept[deliveries->next];
    deliveries->next = (deliveries->next + 1) % DELIVERIES_KEPT;
    *delivery = (struct delivery){ host, *digest, offset, offset + length };
}

void deliveries_distrust(struct deliveries *deliveries, const struct digest *digest,
                         uint64_t offset, uint64_t length, uint64_t aside_ms)
{
    for (size_t i = 0; i < DELIVERIES_KEPT; i++) {
        struct delivery *delivery = &deliveries->kept[i];
        if (!delivery->host || delivery->end <= offset || delivery->offset >= offset + length ||
            !digest_equal(&delivery->digest, digest))
            continue;
        log_warning("host %s gave wrong bytes; others are asked first", delivery->host->name);
        host_distrust(delivery->host, aside_ms);
        delivery->host = NULL;
    }
}

/* ---- from any thread ---- */

struct damage {
    struct transfer_task task;
    struct registry_client *client;
    struct digest digest;
    uint64_t offset, length;
};

static void report(struct transfer_task *task)
{
    struct damage *damage = container_of(task, struct damage, task);
    struct registry_client *client = damage->client;
    deliveries_distrust(&client->deliveries, &damage->digest, damage->offset, damage->length,
                        client->aside_seconds * UINT64_C(10000));
    free(damage);
}

void registry_report_damage(struct registry_client *client, const struct digest *digest,
                            uint64_t offset, uint64_t length)
{
    struct damage *damage = calloc(1, sizeof *damage);
    if (!damage) return;
    *damage = (struct damage){ { .run = report }, client, *digest, offset, length };
    transfer_post(client->thread, &damage->task);
}
