/*
 * Giving back what no image needs. What is to go is kept here and not by the server, which may die:
 * it is asked whenever something has changed (an image was closed for good, was opened or could not
 * be, a server has started), and says what is still used.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/thread.h"
#include "node/node_client-internal.h"
#include "node/node_protocol-internal.h"
#include "node/question.h"

/* Files of gigabytes are removed meanwhile. */
#define TIMEOUT_MS 60000
/* Of a node that is never done with what it wants to give back; the rest goes by eviction. */
#define KEYS_MAX (1u << 20)

/* ---- what is to go; with the lock ---- */

static bool is_needed(const struct node_client *client, const struct digest *key)
{
    const struct client_image *image;
    LIST_FOREACH(image, &client->images, link)
    if (image->id != 0 && digests_have(image->cache_keys, image->cache_key_count, key)) return true;
    return false;
}

/* Images that were opened since need it again. */
static void drop_needed(struct node_client *client)
{
    struct giving_back *giving = &client->giving_back;
    size_t left = 0;
    for (size_t i = 0; i < giving->count; i++)
        if (!is_needed(client, &giving->keys[i])) giving->keys[left++] = giving->keys[i];
    giving->count = left;
}

void client_give_back_again(struct node_client *client)
{
    if (client->giving_back.count == 0) return;
    client->giving_back.due = true;
    pthread_cond_broadcast(&client->changed);
}

void node_client_give_back(struct node_client *client, const struct digest *keys, size_t count)
{
    pthread_mutex_lock(&client->lock);
    struct giving_back *giving = &client->giving_back;
    struct digest *more = NULL;
    if (count > 0 && count <= KEYS_MAX - giving->count)
        more = reallocarray(giving->keys, giving->count + count, sizeof *more);
    if (more) {
        memcpy(more + giving->count, keys, count * sizeof *keys);
        giving->keys = more;
        giving->count += count;
    }
    client_give_back_again(client);
    pthread_mutex_unlock(&client->lock);
}

/* ---- asking the server ---- */

/* Those that the server says are left begin `keys` then. */
static int take_answer(const struct buffer *answer, struct digest *keys, size_t *count,
                       struct error **error)
{
    cleanup_free struct digest *left = NULL;
    size_t left_count;
    cleanup_json json_t *root =
        json_read_object(answer->data, answer->length, "the server's answer", error);
    if (!root || json_field_digests(root, "digests", *count, &left, &left_count, error) < 0)
        return -1;
    memcpy(keys, left, left_count * sizeof *keys);
    *count = left_count;
    return 0;
}

static int ask(int commands, struct digest *keys, size_t *count, struct error **error)
{
    const struct question_peer peer = { commands, "the server" };
    cleanup_buffer struct buffer answer = { 0 };
    cleanup_json json_t *command =
        json_pack("{s:s, s:o}", "command", NODE_GIVE_BACK, "digests", json_digests(keys, *count));
    cleanup_free char *text = command ? json_dumps(command, JSON_COMPACT) : NULL;
    if (!text) return error_set_memory(error);
    if (question_ask(&peer, text, strlen(text), TIMEOUT_MS, &answer, error) < 0) return -1;
    return take_answer(&answer, keys, count, error);
}

/* ---- the thread; with the lock, which it lets go of while it asks ---- */

/* `count` keys at `keys` are out of the list; those that are left come back. */
static int ask_unlocked(struct node_client *client, struct digest *keys, size_t *count)
{
    cleanup_error struct error *error = NULL;
    cleanup_close int commands = fcntl(client->commands, F_DUPFD_CLOEXEC, 0);
    if (commands < 0) return -1;
    pthread_mutex_unlock(&client->lock);
    int result = ask(commands, keys, count, &error);
    pthread_mutex_lock(&client->lock);
    if (result < 0 && client->running && !client->stopping)
        log_warning("what images needed that were removed stays in the cache for now: %s",
                    error_message(error));
    return result;
}

/* All of the list, once, from its end, so that what is added meanwhile is not in the way. */
static void give_back(struct node_client *client)
{
    struct giving_back *giving = &client->giving_back;
    struct digest keys[NODE_GIVE_BACK_MAX];
    drop_needed(client);
    size_t before = giving->count;
    while (before > 0 && client->running && !client->stopping) {
        size_t count = before < NODE_GIVE_BACK_MAX ? before : NODE_GIVE_BACK_MAX, left = count;
        before -= count;
        memcpy(keys, giving->keys + before, count * sizeof *keys);
        if (ask_unlocked(client, keys, &left) < 0) return;
        memmove(giving->keys + before + left, giving->keys + before + count,
                (giving->count - before - count) * sizeof *keys);
        memcpy(giving->keys + before, keys, left * sizeof *keys);
        giving->count -= count - left;
    }
}

static void *run(void *argument)
{
    struct node_client *client = argument;
    pthread_mutex_lock(&client->lock);
    while (!client->stopping) {
        if (client->giving_back.due && client->running) {
            client->giving_back.due = false;
            give_back(client);
        } else {
            pthread_cond_wait(&client->changed, &client->lock);
        }
    }
    pthread_mutex_unlock(&client->lock);
    return NULL;
}

int client_give_back_start(struct node_client *client, struct error **error)
{
    if (thread_start(&client->giving_back.thread, "sluice-forget", run, client, error) < 0)
        return -1;
    client->giving_back.runs = true;
    return 0;
}

void client_give_back_stop(struct node_client *client)
{
    if (client->giving_back.runs) pthread_join(client->giving_back.thread, NULL);
    free(client->giving_back.keys);
}
