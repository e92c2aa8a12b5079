#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "node/give_back.h"
#include "node/image_check.h"
#include "node/mounted_image-internal.h"

/* ---- loading ---- */

/* node_image_options. What the mount needs is said before the first part is looked for in the
 * cache, so that it is not evicted meanwhile. */
static void prepare_mount(void *context, const struct node_image *node)
{
    struct mounted_image *image = context;
    node_cache_declare(image->node->cache, node, image->options.mountpoint, &image->use);
    if (image->profile) profile_player_prepare(image->profile, node);
}

static int load(struct mounted_image *image, struct error **error)
{
    const struct mounted_image_options *options = &image->options;
    struct node *node = image->node;
    struct node_image_options how = { .reference = options->reference,
                                      .platform = options->platform,
                                      .pinned = options->pinned_index,
                                      .pinned_trust = options->pinned_trust,
                                      .least_trust = options->least_trust,
                                      .force = options->force,
                                      .layers = options->layers,
                                      .difference = options->difference,
                                      .artifact_known = prepare_mount,
                                      .context = image };
    if (!options->no_profile && profile_player_new(&image->profile, node->client, node->cache,
                                                   options->prefetch_limit, error) < 0)
        return -1;
    if (node_image_load(&image->image, node->client, node->cache, &how, error) < 0) return -1;
    image->loaded = true;
    return 0;
}

static int open_devices(struct mounted_image *image, struct error **error)
{
    size_t count = image->image.artifact.layer_count;
    image->shares = calloc(count, sizeof *image->shares);
    image->devices = calloc(count, sizeof *image->devices);
    if (!image->shares || !image->devices) return error_set_memory(error);
    for (size_t i = 0; i < count; i++) {
        if (shared_layer_open(image->node->layers, &image->image, i, &image->shares[i], error) < 0)
            return -1;
        image->devices[i] = shared_layer_device(image->shares[i]);
        image->device_count++;
    }
    return 0;
}

int mounted_image_new(struct mounted_image **ret, struct node *node,
                      const struct mounted_image_options *options, struct error **error)
{
    struct mounted_image *image = calloc(1, sizeof *image);
    if (!image) return error_set_memory(error);
    image->node = node;
    image->options = *options;
    pthread_mutex_init(&image->status_lock, NULL);
    if (load(image, error) == 0 && open_devices(image, error) == 0) {
        *ret = image;
        return 0;
    }
    mounted_image_free(image);
    return -1;
}

/* ---- mounting ---- */

/* What is recorded is what programs read, and not what the kernel reads for them. */
static enum front_readahead choose_readahead(const struct mounted_image *image)
{
    bool complete = !image->options.record;
    for (size_t i = 0; i < image->device_count && complete; i++) {
        uint32_t chunks_present;
        uint64_t ignored;
        layer_device_presence(image->devices[i], &chunks_present, &ignored);
        complete = chunks_present == image->image.tables[i]->chunk_count;
    }
    return complete ? READAHEAD_MUCH : READAHEAD_LITTLE;
}

/* Recording needs to know of every read. And what a check finds false is not served any more, which
 * the kernel cannot be told of files that it has. */
static bool must_see_reads(const struct mounted_image *image)
{
    struct image_check check = { .node = &image->image, .cache = image->node->cache };
    if (image->options.record) return true;
    return image->options.fill != FILL_OFF && !image_check_recall(&check);
}

static int start_record(struct mounted_image *image, struct error **error)
{
    const char *path = image->options.record;
    if (!path) return 0;
    return record_file_start(&image->record, path, &image->image, image->node->path, image->devices,
                             error);
}

int mounted_image_mount(struct mounted_image *image, struct error **error)
{
    const struct mounted_image_options *options = &image->options;
    struct front_options how = { .kind = options->front,
                                 .mountpoint = options->mountpoint,
                                 .readahead = choose_readahead(image),
                                 .all_through_server = must_see_reads(image),
                                 .mounter = options->mounter,
                                 .reader = &image->reader,
                                 .lasting = options->lasting,
                                 .resumed = options->resumed };
    struct front *front;
    if (start_record(image, error) < 0 ||
        front_mount(&front, &image->image, image->devices, (uint32_t)image->device_count, &how,
                    error) < 0)
        return -1;
    pthread_mutex_lock(&image->status_lock);
    image->front = front;
    pthread_mutex_unlock(&image->status_lock);
    return 0;
}

/* ---- serving ---- */

/* fill_options */
static void read_ahead_much(void *context)
{
    struct mounted_image *image = context;
    if (!image->options.record) front_set_readahead(image->front, READAHEAD_MUCH);
}

/* fill_options */
static void refuse_layer(void *context, size_t layer)
{
    struct mounted_image *image = context;
    front_refuse(image->front, (uint32_t)layer);
}

static int start_fill(struct mounted_image *image, struct error **error)
{
    const struct mounted_image_options *options = &image->options;
    struct fill_options fill = { .mode = options->fill,
                                 .bytes_per_second = options->fill_rate,
                                 .force = options->force,
                                 .node = &image->image,
                                 .cache = image->node->cache,
                                 .path = image->node->path,
                                 .devices = image->devices,
                                 .client = image->node->client,
                                 .complete = read_ahead_much,
                                 .refuse = refuse_layer,
                                 .context = image };
    struct fill *started;
    if (options->fill == FILL_OFF) return 0;
    if (fill_start(&started, &fill, error) < 0) return -1;
    pthread_mutex_lock(&image->status_lock);
    image->fill = started;
    pthread_mutex_unlock(&image->status_lock);
    return 0;
}

int mounted_image_serve(struct mounted_image *image, void (*ready)(void *context), void *context,
                        struct error **error)
{
    if (image->profile)
        profile_player_play(image->profile, &image->image, image->node->path, image->devices);
    if (start_fill(image, error) < 0) return -1;
    return front_serve(image->front, ready, context, error);
}

int mounted_image_connection(const struct mounted_image *image)
{
    return front_connection(image->front);
}

const struct fuse_negotiated *mounted_image_negotiated(const struct mounted_image *image)
{
    return front_negotiated(image->front);
}

void mounted_image_stop(struct mounted_image *image)
{
    front_stop(image->front);
}

struct digest *mounted_image_cache_keys(const struct mounted_image *image, size_t *ret_count)
{
    return image_cache_keys(&image->image, ret_count);
}

/* ---- the end ---- */

/* In the order that fuse/rootfs.h asks for. */
void mounted_image_end(struct mounted_image *image)
{
    pthread_mutex_lock(&image->status_lock);
    image->stopping = true;
    pthread_mutex_unlock(&image->status_lock);
    fill_stop(image->fill);
    profile_player_end(image->profile);
    record_file_end(image->record);
    for (size_t i = 0; i < image->device_count; i++)
        shared_layer_close(image->shares[i]);
    front_free(image->front);
    image->fill = NULL;
    image->record = NULL;
    image->device_count = 0;
    image->front = NULL;
}

void mounted_image_free(struct mounted_image *image)
{
    if (!image) return;
    mounted_image_end(image);
    free(image->shares);
    free(image->devices);
    cache_end_use(image->use);
    if (image->loaded) node_image_free(&image->image);
    profile_player_free(image->profile);
    pthread_mutex_destroy(&image->status_lock);
    free(image);
}
