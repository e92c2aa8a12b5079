/*
 * Several ranges by one request: what ranges.c, which asks, and ranges_answer.c,
 * which takes what comes, share.
 */
#ifndef SLUICE_FETCHER_RANGES_INTERNAL_H
#define SLUICE_FETCHER_RANGES_INTERNAL_H

#include "fetcher/byteranges-internal.h"
#include "fetcher/ranged-internal.h"

#define RANGES_LIST_ITEM (2 * 20 + 2) /* "first-last," */

enum answer_shape {
    ANSWER_ONE,      /* the first that is missing was asked for */
    ANSWER_PARTS,    /* several were; the answer is in parts ... */
    ANSWER_ONE_PART, /* ... or is one of them, or of some that lie beside each other */
};

struct wanted_range {
    struct registry_range asked;
    struct ranged ranged; /* what is missing */
    struct buffer body;   /* without `part` */
    bool is_asked;        /* by the exchange, where that asks for several */
    bool settled;         /* `done` was called */
};

struct ranges {
    struct request request;
    char *registry, *repository;
    struct digest digest;
    struct range_time time;
    bool several;                /* the exchange asks for several */
    bool unfit;                  /* it was answered otherwise */
    enum answer_shape shape;     /* of the answer */
    struct wanted_range *single; /* the one that is asked for */
    struct byteranges parser;
    uint64_t part_at, part_end; /* of the part that comes */
    uint64_t received;          /* bytes of the answer */
    uint64_t seen;              /* of these: when the timer was started */
    struct transfer_timer patience;
    bool hurried;    /* an answer that came too slowly was given up */
    bool progressed; /* it has completed a range */
    bool over;       /* it said that there are no more parts */
    struct transfer_task task;
    struct error *refused; /* the arguments were wrong */
    char list[REGISTRY_RANGES_MAX * RANGES_LIST_ITEM + 1];
    size_t count;
    struct wanted_range wanted[];
};

static inline struct ranges *ranges_of(struct request *request)
{
    return container_of(request, struct ranges, request);
}

/* ---- ranges.c ---- */

/* The host gives one range at a time. */
void ranges_note_single(struct ranges *ranges);

/* ---- ranges_answer.c: operations of the request ---- */

int ranges_begin(struct request *request, struct error **error);
enum taken ranges_take(struct request *request, const uint8_t *data, size_t length,
                       struct error **error);
int ranges_end(struct request *request, struct error **error);

#endif
