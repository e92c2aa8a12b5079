/* What the parts of a registry client share. */
#ifndef SLUICE_FETCHER_CLIENT_INTERNAL_H
#define SLUICE_FETCHER_CLIENT_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/queue.h>

#include "fetcher/absences-internal.h"
#include "fetcher/deliveries-internal.h"
#include "fetcher/exchange-internal.h"
#include "fetcher/pace-internal.h"
#include "fetcher/redirects-internal.h"
#include "fetcher/registry.h"
#include "fetcher/transfer-internal.h"

struct request;
struct registry;

TAILQ_HEAD(request_list, request);
TAILQ_HEAD(registry_list, registry);

struct registry_client {
    struct transfer_thread *thread;
    bool plain_http;
    char **hosts_directories;
    unsigned attempts, mirror_seconds, aside_seconds;
    registry_credentials *credentials; /* or NULL */
    void *credentials_context;
    struct exchange_settings settings;

    /* On the transfer thread only. */
    struct request_list requests; /* everything that is under way */
    struct registry_list registries;
    struct redirects redirects;
    struct deliveries deliveries;
    struct absences absences;
    struct allowance repeats; /* of range.c */
    bool stopped;             /* what is begun now ends with ERROR_CANCELLED */

    /* From any thread. */
    atomic_uint_fast64_t sent, bytes_received, retries;
    atomic_uint_fast64_t single_until; /* of the hosts' ones, the latest */
    pthread_mutex_t lock;
    pthread_cond_t left;
    unsigned calls; /* that wait in this client */
};

/* Around every public call that waits: registry_client_free() lets them leave before the memory
 * goes. */
void client_enter(struct registry_client *client);
void client_leave(struct registry_client *client);

static inline void client_leave_function(struct registry_client **client)
{
    client_leave(*client);
}
/* Declares that the function's block is inside `client`. */
#define CLIENT_CALL(client)                                                                   \
    __attribute__((cleanup(client_leave_function))) struct registry_client *call_ = (client); \
    client_enter(call_)

#endif
