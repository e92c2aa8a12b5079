/*
 * What the files of lazy images share.
 *
 *   lazy_images.c    which images there are, and the source that the snapshotter asks
 *   lazy_decision.c  whether an image is lazy: asked once, remembered
 *   lazy_name.c      which image a client means
 *   lazy_status.c    what people and monitoring are told
 *   lazy_view.c      mounting an image, whole or its first layers, and clearing it away
 *   lazy_layers.c    its layers one by one, for who stacks them
 *
 * One lock covers the tables; nothing slow happens under it. An image is kept by references: one of
 * the table's, one of each thread that works with it.
 */
#ifndef SLUICE_SNAPSHOTTER_LAZY_IMAGES_INTERNAL_H
#define SLUICE_SNAPSHOTTER_LAZY_IMAGES_INTERNAL_H

#include <pthread.h>
#include <stdbool.h>
#include <sys/queue.h>

#include "snapshotter/lazy_images.h"
#include "snapshotter/lazy_layers.h"
#include "snapshotter/lazy_record.h"

/* Who needs an image. */
#define LAZY_USED_BY_SNAPSHOTS 1u /* committed ones */
#define LAZY_USED_BY_LAYERS    2u /* lazy_layers.h */

struct lazy_image {
    TAILQ_ENTRY(lazy_image) entry;
    uint64_t number;
    struct lazy_record record;
    unsigned users;       /* LAZY_USED_BY_* */
    uint64_t decision_ms; /* that it took to decide; 0: an earlier daemon did */
    unsigned references;
    struct lazy_images *images;
};

enum decision_state { DECISION_PENDING, DECISION_LAZY, DECISION_ORDINARY };

struct decision {
    TAILQ_ENTRY(decision) entry;
    struct lazy_images *images;
    char *name; /* of the image, for people */
    char *
        reference; /* what it is about: registry/repository@digest, or by_name what was asked for */
    bool by_name;  /* the client did not say which manifest: that may change */
    char *index;   /* digest of the index that the client named, or NULL */
    enum decision_state state;
    uint64_t image;          /* DECISION_LAZY: its number */
    char *reason;            /* DECISION_ORDINARY: one line */
    uint64_t begun, decided; /* milliseconds of CLOCK_MONOTONIC */
    bool late;               /* the budget was over first, and somebody has pulled ordinarily */
    unsigned waiting;        /* threads that look at it */
};

/* What "decisions" counts, by the field's name. */
enum decision_kind {
    DECIDED_LAZY,
    DECIDED_NO_INDEX,
    DECIDED_DENIED,
    DECIDED_UNREACHABLE,
    DECIDED_MISMATCH,
    DECIDED_LATE,
    DECIDED_OTHER,
    DECISION_KINDS
};

struct lazy_images {
    const struct config *config;
    struct node_client *node;
    char *directory;
    struct lazy_source source;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    TAILQ_HEAD(, lazy_image) images;
    TAILQ_HEAD(decision_list, decision) decisions; /* the newest first */
    unsigned decision_count;
    uint64_t last_number;
    uint64_t *kept; /* numbers of images that layers use; until the start */
    size_t kept_count;
    unsigned threads; /* of ours, that have not ended */
    bool stopping;
    uint64_t decided[DECISION_KINDS];
};

/* ---- lazy_images.c ---- */

/* Runs `function` on a thread that lazy_images_free() waits for. */
int lazy_thread_start(struct lazy_images *images, const char *name, void *(*function)(void *),
                      void *argument, struct error **error);
/* The last thing that such a thread does. */
void lazy_thread_end(struct lazy_images *images);
/* A number that no image has or had; its directory is made. */
int lazy_image_number(struct lazy_images *images, uint64_t *ret, struct error **error);
/* Under the lock; NULL: there is none. */
struct lazy_image *lazy_image_find(struct lazy_images *images, uint64_t number);
/* Takes the record over; the table's reference is made. Under the lock. */
struct lazy_image *lazy_image_add(struct lazy_images *images, uint64_t number,
                                  struct lazy_record *record, struct error **error);
/* An image whose use is over; under the lock. It goes when nobody else uses it. */
void lazy_image_unuse(struct lazy_images *images, struct lazy_image *image, unsigned user);
/* What may be asked of an image without the lock, until lazy_image_let_go(). NULL: there is none,
 * and the error, of this kind, says so. */
struct lazy_image *lazy_image_get(struct lazy_images *images, uint64_t number, enum error_kind kind,
                                  struct error **error);
void lazy_image_let_go(struct lazy_images *images, struct lazy_image *image);
/* Under the lock; the last one has the image unmounted and removed, if it is not in the table. */
void lazy_image_release(struct lazy_images *images, struct lazy_image *image);
/* What the cache keeps for a mount of the image beside what is written down: the metadata of its
 * first layers, which is made here. Nothing for an image that is not in the table. */
void lazy_image_add_keys(struct lazy_images *images, uint64_t number,
                         const struct node_image_answer *answer);
/* Out of the table; under the lock. */
void lazy_image_take_out(struct lazy_images *images, struct lazy_image *image);

/* ---- lazy_decision.c ---- */

/* 1: `ret` is the number of the image, which has no reference for it; 0: ordinary; -1. Waits. */
int decision_make(struct lazy_images *images, const struct lazy_layer *layer, uint64_t *ret,
                  struct error **error);
/* An image that is there from an earlier start is lazy; under the lock. */
void decision_restore(struct lazy_images *images, const struct lazy_image *image);
/* The image is no more; under the lock. */
void decision_forget(struct lazy_images *images, uint64_t image);
/* A layer of an image that is lazy is not. */
void decision_count_mismatch(struct lazy_images *images, const struct lazy_layer *layer,
                             const char *reason);
int decision_status(struct lazy_images *images, json_t *status);
void decisions_free(struct lazy_images *images);

/* ---- lazy_name.c ---- */

/* The full name of the image that a layer is asked for of, with the manifest's digest if the client
 * says that. In fresh memory; NULL: error is set. */
char *lazy_name_of_layer(const struct lazy_layer *layer, struct error **error);
/* What the name means now: registry/repository@digest, in fresh memory. NULL: error is set, also
 * where the image has no index. */
char *lazy_name_pin(struct lazy_images *images, const char *name, uint64_t timeout_ms,
                    struct error **error);

/* ---- lazy_view.c ---- */

/* The image's directory, and what is in it; in fresh memory. */
char *lazy_view_directory(const struct lazy_images *images, uint64_t number);
char *lazy_view_record_path(const struct lazy_images *images, uint64_t number);

struct lazy_view {
    uint64_t number;
    const char *name, *reference;
    const struct digest *index; /* or NULL: whichever the registry has */
    enum index_trust least_trust;
    uint32_t layers, all; /* `layers` of `all`; both are 0 where these are not known yet */
    bool difference;      /* only what the last of them changes */
};
char *lazy_view_path(const struct lazy_images *images, const struct lazy_view *view);
/* Of an image in the table, which has a reference; `index` and texts are borrowed of it. */
struct lazy_view lazy_view_of(const struct lazy_image *image, uint32_t layers);
/* Of which image a mount of the node is (its "id"). */
uint64_t lazy_view_image(uint64_t id);
/* How many layers it has open; 0: all. */
uint32_t lazy_view_layers(uint64_t id);
/* Has it mounted. `ret_answer` (or NULL) is freed by node_image_answer_free(). */
int lazy_view_open(struct lazy_images *images, const struct lazy_view *view, uint64_t timeout_ms,
                   struct node_image_answer *ret_answer, struct error **error);
/* Opens again what is mounted of the image: at the start, on a thread of its own. */
void lazy_view_restore(struct lazy_images *images, struct lazy_image *image);
/* Unmounts all of an image and removes its directory, whatever is there. */
void lazy_view_clear(struct lazy_images *images, uint64_t number);

#endif
