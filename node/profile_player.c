#include "node/profile_player.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/thread.h"
#include "fuse/prefetch.h"
#include "node/profile_part.h"

/* Later than this nobody needs it any more. */
static const struct range_time fetch_time = { .timeout_ms = 60000 };

enum player_state {
    PLAYER_WITHOUT,  /* there is no profile */
    PLAYER_FETCHING, /* its blob */
    PLAYER_FETCHED,
    PLAYER_PLAYING,
    PLAYER_FAILED, /* it did not come, or is no good */
};

struct profile_player {
    struct registry_client *client;
    struct cache *cache;
    uint64_t limit;
    struct index_part part;
    struct digest profile_of; /* the index that was prepared for */

    const struct node_image *node;
    struct data_path *path;
    struct layer_device *const *devices;
    bool playing; /* the thread was started */
    pthread_t thread;

    pthread_mutex_t lock;
    pthread_cond_t changed;
    enum player_state state;
    unsigned references; /* the owner's, and that of the fetch */
    bool ending;
    struct buffer blob;    /* as it came */
    struct buffer content; /* unpacked: by the cache, or of the blob */
    struct error *failure; /* of the fetch */
    struct prefetch *prefetch;
};

int profile_player_new(struct profile_player **ret, struct registry_client *client,
                       struct cache *cache, uint64_t limit, struct error **error)
{
    struct profile_player *player = calloc(1, sizeof *player);
    if (!player) return error_set_memory(error);
    player->client = client;
    player->cache = cache;
    player->references = 1;
    player->limit = limit ? limit : cache_get_limits(cache).size / 2;
    pthread_mutex_init(&player->lock, NULL);
    pthread_cond_init(&player->changed, NULL);
    *ret = player;
    return 0;
}

static void unreference(struct profile_player *player)
{
    pthread_mutex_lock(&player->lock);
    bool last = --player->references == 0;
    pthread_mutex_unlock(&player->lock);
    if (!last) return;
    pthread_cond_destroy(&player->changed);
    pthread_mutex_destroy(&player->lock);
    buffer_free(&player->blob);
    buffer_free(&player->content);
    error_free(player->failure);
    free(player);
}

/* ---- fetching ---- */

static void profile_arrived(void *context, struct buffer *body, struct error *error)
{
    struct profile_player *player = context;
    pthread_mutex_lock(&player->lock);
    if (body) {
        player->blob = *body;
        *body = (struct buffer){ 0 };
    }
    player->failure = error;
    player->state = body ? PLAYER_FETCHED : PLAYER_FAILED;
    pthread_cond_broadcast(&player->changed);
    pthread_mutex_unlock(&player->lock);
    unreference(player);
}

void profile_player_prepare(struct profile_player *player, const struct node_image *node)
{
    const struct index_part *part = &node->artifact.profile;
    /* Another index may be chosen after the first; one request is enough. */
    if (part->size == 0 || player->part.size > 0) return;
    player->part = *part;
    player->profile_of = node->index_digest;
    bool kept = cache_get_blob(player->cache, &part->content_digest, PROFILE_LENGTH_MAX,
                               &player->content, NULL) == 0;
    player->state = kept ? PLAYER_FETCHED : PLAYER_FETCHING;
    if (kept) return;
    player->references++;
    registry_fetch_range(player->client, &node->image.repository, &part->digest, 0,
                         (size_t)part->size, fetch_time, profile_arrived, player);
}

/* Once more is not worth it: the mount works without. */
static int unpack(struct profile_player *player, struct error **error)
{
    if (player->content.length > 0) return 0;
    if (profile_part_unpack(&player->part, &player->blob, &player->content, error) < 0) {
        registry_report_damage(player->client, &player->part.digest, 0, player->part.size);
        return -1;
    }
    cleanup_error struct error *reason = NULL;
    if (cache_put_blob(player->cache, &player->part.content_digest, player->content.data,
                       player->content.length, &reason) < 0)
        log_info("%s", error_message(reason)); /* it is fetched again some day */
    return 0;
}

/* ---- playing ---- */

static int start_prefetch(struct profile_player *player, struct error **error)
{
    const struct node_image *node = player->node;
    struct profile profile;
    struct prefetch *prefetch;
    cleanup_free struct profile_layer *layers = profile_layers_of(&node->artifact, node->tables);
    if (!layers) return error_set_memory(error);
    if (!digest_equal(&player->profile_of, &node->index_digest))
        return error_set(error, ERROR_NOT_FOUND, "profile: it is of another index");
    if (unpack(player, error) < 0 ||
        profile_decode(&profile, player->content.data, player->content.length, layers,
                       node->artifact.layer_count, error) < 0)
        return -1;
    uint64_t chunks = profile.chunk_count;
    int result =
        prefetch_start(&prefetch, player->path, player->devices, &profile, player->limit, error);
    profile_free(&profile);
    if (result < 0) return -1;
    log_about(LOG_INFO, node->image.name,
              "fetching %llu chunks ahead, as the index's profile has them",
              (unsigned long long)chunks);
    pthread_mutex_lock(&player->lock);
    player->prefetch = prefetch;
    player->state = PLAYER_PLAYING;
    pthread_mutex_unlock(&player->lock);
    return 0;
}

static void give_up(struct profile_player *player, struct error *reason)
{
    log_about(LOG_WARNING, player->node->image.name,
              "index of %s: %s; going on without its profile", player->node->image.name,
              error_message(reason));
    error_free(reason);
    pthread_mutex_lock(&player->lock);
    player->state = PLAYER_FAILED;
    pthread_mutex_unlock(&player->lock);
}

static void *play(void *argument)
{
    struct profile_player *player = argument;
    struct error *error = NULL;
    pthread_mutex_lock(&player->lock);
    while (player->state == PLAYER_FETCHING && !player->ending)
        pthread_cond_wait(&player->changed, &player->lock);
    bool ending = player->ending, fetched = player->state == PLAYER_FETCHED;
    struct error *failure = player->failure;
    player->failure = NULL;
    pthread_mutex_unlock(&player->lock);
    if (ending)
        error_free(failure);
    else if (!fetched)
        give_up(player, failure);
    else if (start_prefetch(player, &error) < 0)
        give_up(player, error);
    return NULL;
}

void profile_player_play(struct profile_player *player, const struct node_image *node,
                         struct data_path *path, struct layer_device *const *devices)
{
    struct error *error = NULL;
    if (player->part.size == 0) return;
    player->node = node;
    player->path = path;
    player->devices = devices;
    player->playing = thread_start(&player->thread, "sluice-profile", play, player, &error) == 0;
    if (!player->playing) give_up(player, error);
}

void profile_player_end(struct profile_player *player)
{
    if (!player) return;
    pthread_mutex_lock(&player->lock);
    player->ending = true;
    pthread_cond_broadcast(&player->changed);
    pthread_mutex_unlock(&player->lock);
    if (player->playing) pthread_join(player->thread, NULL);
    prefetch_end(player->prefetch);
    player->prefetch = NULL;
}

void profile_player_free(struct profile_player *player)
{
    if (player) unreference(player);
}

/* ---- status ---- */

static json_t *progress_json(struct prefetch *prefetch)
{
    static const char *const names[] = { [PREFETCH_RUNNING] = "fetching",
                                         [PREFETCH_DONE] = "done",
                                         [PREFETCH_LIMITED] = "limited",
                                         [PREFETCH_STOPPED] = "stopped" };
    struct prefetch_progress progress;
    prefetch_progress(prefetch, &progress);
    return json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I}", "state", names[progress.state],
                     "chunks", (json_int_t)progress.chunks, "bytes", (json_int_t)progress.bytes,
                     "chunks_here", (json_int_t)progress.chunks_here, "bytes_here",
                     (json_int_t)progress.bytes_here, "chunks_read",
                     (json_int_t)progress.chunks_read, "bytes_read",
                     (json_int_t)progress.bytes_read);
}

json_t *profile_player_status(struct profile_player *player)
{
    if (!player) return json_pack("{s:s}", "state", "off");
    pthread_mutex_lock(&player->lock);
    json_t *status = NULL;
    if (player->prefetch)
        status = progress_json(player->prefetch);
    else
        status = json_pack("{s:s}", "state",
                           player->state == PLAYER_WITHOUT  ? "none"
                           : player->state == PLAYER_FAILED ? "failed"
                                                            : "loading");
    pthread_mutex_unlock(&player->lock);
    return status;
}
