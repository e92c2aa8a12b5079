/* The thread that holds an index against what fill has brought, one layer after another. */
#include <errno.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "node/fill-internal.h"

#define AGAIN_FIRST_MS 1000u
#define AGAIN_MOST_MS  300000u

struct checker {
    struct fill *fill;
    struct image_check check;
    bool known; /* all of it was checked before, on this node */
    bool config_right;
    unsigned again_ms; /* after what could not be known */
};

/* Whom what was found concerns. */
enum concerned {
    CONCERNS_IMAGE, /* its config, or its tree: other images that have the layers may be true */
    CONCERNS_BYTES, /* whoever reads the layer by this chunk table */
};

/* All layers, or those that are marked. */
static void refuse_layers(const struct fill *fill, const bool *wrong, enum concerned concerned,
                          const char *reason)
{
    const struct fill_options *options = &fill->options;
    data_path_note_error(options->path, reason);
    for (size_t i = 0; i < fill->layer_count; i++) {
        if (wrong && !wrong[i]) continue;
        if (concerned == CONCERNS_BYTES)
            layer_device_refuse(options->devices[i], reason);
        else
            options->refuse(options->context, i);
    }
}

/* The index is not believed any further: not in this mount, unless somebody insists, and not in
 * another. */
static void refuse(struct checker *checker, const bool *wrong, enum concerned concerned,
                   bool of_image, const struct error *finding)
{
    char digest[DIGEST_TEXT_SIZE];
    struct fill *fill = checker->fill;
    const struct node_image *node = fill->options.node;
    const char *reason = error_message(finding);
    struct error *error = NULL;
    log_about(LOG_ERROR, node->image.name, "image %s: its index %s does not tell the truth: %s; %s",
              node->image.name, digest_format(&node->index_digest, digest), reason,
              fill->options.force ? "going on, as --force asks" : "reads of it fail from now on");
    if (index_refuse(fill->options.cache, &node->image, &node->index_digest, of_image, reason,
                     &error) < 0)
        log_about(LOG_ERROR, node->image.name, "%s; the next mount will not know",
                  error_message(error));
    error_free(error);
    if (!fill->options.force) refuse_layers(fill, wrong, concerned, reason);
    pthread_mutex_lock(&fill->lock);
    fill->found_false = true;
    fill->open = false;
    fill_set_state(fill, FILL_FALSE, reason);
    pthread_mutex_unlock(&fill->lock);
}

/* ---- the three steps ---- */

static enum check_result check_config(struct checker *checker, struct error **error)
{
    struct error *finding = NULL;
    cleanup_free bool *wrong = calloc(checker->fill->layer_count + 1, sizeof *wrong);
    if (!wrong) {
        error_set_memory(error);
        return CHECK_UNKNOWN;
    }
    enum check_result result = image_check_config(&checker->check, wrong, &finding);
    if (result == CHECK_FALSE) refuse(checker, wrong, CONCERNS_IMAGE, true, finding);
    checker->config_right = result == CHECK_TRUE;
    if (finding) error_move(error, finding);
    return result;
}

static bool is_checked(const struct checker *checker, size_t layer)
{
    return image_layer_is_sealed(&checker->check, layer, !checker->known);
}

static enum check_result check_layer(struct checker *checker, size_t layer, struct error **error)
{
    struct fill *fill = checker->fill;
    struct error *finding = NULL;
    enum check_result result = CHECK_TRUE;
    bool bytes_wrong = false;
    cleanup_free bool *wrong = calloc(fill->layer_count + 1, sizeof *wrong);
    if (!wrong) {
        error_set_memory(error);
        return CHECK_UNKNOWN;
    }
    if (!is_checked(checker, layer))
        result = image_check_layer(&checker->check, layer, &bytes_wrong, &finding);
    if (result == CHECK_FALSE) {
        wrong[layer] = true;
        refuse(checker, bytes_wrong ? wrong : NULL, bytes_wrong ? CONCERNS_BYTES : CONCERNS_IMAGE,
               false, finding);
        if (bytes_wrong) layer_cache_drop(layer_device_cache(fill->options.devices[layer]));
    }
    pthread_mutex_lock(&fill->lock);
    fill->checked[layer] = result == CHECK_TRUE;
    pthread_mutex_unlock(&fill->lock);
    if (finding) error_move(error, finding);
    return result;
}

static void end_well(struct checker *checker, bool tree)
{
    struct fill *fill = checker->fill;
    const struct node_image *node = fill->options.node;
    index_end_refusal(fill->options.cache, &node->image, &node->index_digest);
    if (!checker->known) image_check_remember(&checker->check);
    checker->known = true;
    pthread_mutex_lock(&fill->lock);
    fill->tree_checked = tree;
    fill_set_state(fill, FILL_COMPLETE,
                   tree ? NULL : "the tree was not verified: the image has too many files");
    pthread_mutex_unlock(&fill->lock);
    if (fill->options.complete) fill->options.complete(fill->options.context);
}

static enum check_result check_tree(struct checker *checker, struct error **error)
{
    struct error *finding = NULL;
    enum check_result result =
        checker->known ? CHECK_TRUE : image_check_tree(&checker->check, &finding);
    if (result == CHECK_FALSE) refuse(checker, NULL, CONCERNS_IMAGE, false, finding);
    bool too_large = result == CHECK_UNKNOWN && error_kind_of(finding) == ERROR_UNSUPPORTED;
    if (too_large)
        log_about(LOG_WARNING, checker->fill->options.node->image.name, "%s: %s",
                  checker->fill->options.node->image.name, error_message(finding));
    if (too_large || result == CHECK_TRUE) end_well(checker, !too_large);
    if (finding) error_move(error, finding);
    return too_large ? CHECK_TRUE : result;
}

/* ---- one after another ---- */

enum step { STEP_NONE, STEP_CONFIG, STEP_LAYER, STEP_TREE };

/* With the lock. */
static enum step next_step(const struct checker *checker, size_t *ret_layer)
{
    const struct fill *fill = checker->fill;
    bool all = true;
    if (fill->found_false) return STEP_NONE;
    if (!checker->config_right) return STEP_CONFIG;
    for (size_t i = 0; i < fill->layer_count; i++) {
        *ret_layer = i;
        if (fill->complete[i] && !fill->checked[i]) return STEP_LAYER;
        all = all && fill->checked[i];
    }
    return all && fill->state != FILL_COMPLETE ? STEP_TREE : STEP_NONE;
}

static enum check_result take_step(struct checker *checker, enum step step, size_t layer)
{
    struct error *error = NULL;
    enum check_result result = CHECK_TRUE;
    switch (step) {
    case STEP_CONFIG:
        result = check_config(checker, &error);
        break;
    case STEP_LAYER:
        result = check_layer(checker, layer, &error);
        break;
    case STEP_TREE:
        result = check_tree(checker, &error);
        break;
    case STEP_NONE:
        break;
    }
    /* Busy: another server checks the same layer. */
    if (error && result == CHECK_UNKNOWN && error_kind_of(error) != ERROR_CANCELLED &&
        error_errno(error) != EBUSY)
        log_about(LOG_WARNING, checker->fill->options.node->image.name,
                  "check of %s: %s; trying again in %u s", checker->fill->options.node->image.name,
                  error_message(error), checker->again_ms / 1000);
    error_free(error);
    return result;
}

/* With the lock: how long until the next look. */
static unsigned pause_after(struct checker *checker, enum step step, enum check_result result)
{
    if (step == STEP_NONE) return 1000;
    unsigned pause = checker->again_ms;
    if (result != CHECK_UNKNOWN) {
        checker->again_ms = AGAIN_FIRST_MS;
        return 0;
    }
    checker->again_ms = pause < AGAIN_MOST_MS / 2 ? 2 * pause : AGAIN_MOST_MS;
    return pause;
}

/* Readers come first, at the processor and at the disk. */
static void step_back(void)
{
    enum { WHO_PROCESS = 1, CLASS_IDLE = 3 << 13 };
    if (setpriority(PRIO_PROCESS, (id_t)gettid(), 19) < 0 ||
        syscall(SYS_ioprio_set, WHO_PROCESS, 0, CLASS_IDLE) < 0)
        log_debug("the check runs at an ordinary priority");
}

void *fill_check_run(void *argument)
{
    struct fill *fill = argument;
    struct checker checker = { .fill = fill,
                               .check = { .node = fill->options.node,
                                          .cache = fill->options.cache,
                                          .client = fill->options.client,
                                          .devices = fill->options.devices,
                                          .cancel = &fill->ending },
                               .again_ms = AGAIN_FIRST_MS };
    step_back();
    checker.known = image_check_recall(&checker.check);
    checker.config_right = checker.known;
    pthread_mutex_lock(&fill->lock);
    while (!atomic_load(&fill->ending)) {
        size_t layer = 0;
        enum step step = next_step(&checker, &layer);
        pthread_mutex_unlock(&fill->lock);
        enum check_result result = take_step(&checker, step, layer);
        pthread_mutex_lock(&fill->lock);
        unsigned pause = pause_after(&checker, step, result);
        if (pause > 0 && !atomic_load(&fill->ending)) fill_wait(fill, pause);
    }
    pthread_mutex_unlock(&fill->lock);
    return NULL;
}
