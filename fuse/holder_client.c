#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "fuse/holder-internal.h"

struct holder_client {
    char *path;
    pthread_mutex_t lock; /* one question at a time */
    int connection;
    struct holder_message message;
};

/* What an answer may bring. */
struct answer {
    struct holder_entry *entries;
    size_t count, capacity;
};

static int add_entry(struct answer *answer, struct holder_message *message, struct error **error)
{
    if (answer->count == answer->capacity) {
        size_t capacity = answer->capacity ? 2 * answer->capacity : 16;
        struct holder_entry *more =
            reallocarray(answer->entries, capacity, sizeof *answer->entries);
        if (!more || answer->count >= HOLDER_ENTRIES_MAX) {
            if (more) answer->entries = more;
            return error_set(error, ERROR_SYSTEM, "holder: no memory for what it has");
        }
        answer->entries = more;
        answer->capacity = capacity;
    }
    if (holder_message_parse(message, &answer->entries[answer->count], error) < 0) return -1;
    answer->count++;
    return 0;
}

/* *ret_lost tells that the connection has ended, and nothing else is wrong. */
static int receive_answer(struct holder_client *client, struct answer *answer, bool *ret_lost,
                          struct error **error)
{
    struct holder_message *message = &client->message;
    for (;;) {
        int result = holder_message_receive(client->connection, message);
        *ret_lost = result == 0 || (result < 0 && errno == ECONNRESET);
        if (result == 0)
            return error_set(error, ERROR_UNREACHABLE, "holder: it has ended meanwhile");
        if (result < 0) return error_set_errno(error, errno, "holder: wait for its answer");
        if (message->bytes[0] == HOLDER_DONE) return 0;
        if (message->bytes[0] != HOLDER_ENTRY) return holder_answer_error(message, error);
        if (add_entry(answer, message, error) < 0) {
            holder_message_close(message);
            return -1;
        }
    }
}

static int ask_once(struct holder_client *client, const struct holder_message *request,
                    struct answer *answer, bool *ret_lost, struct error **error)
{
    *ret_lost = false;
    if (client->connection < 0) {
        client->connection = holder_socket_connect(client->path, error);
        if (client->connection < 0) return -1;
    }
    if (holder_message_send(client->connection, request) < 0) {
        *ret_lost = errno == EPIPE || errno == ECONNRESET;
        return error_set_errno(error, errno, "holder: ask");
    }
    return receive_answer(client, answer, ret_lost, error);
}

/* Whatever went wrong between the two leaves a connection on which an answer may still come. */
static bool is_verdict(const struct error *error)
{
    enum error_kind kind = error_kind_of(error);
    return kind == ERROR_NOT_FOUND || kind == ERROR_PRECONDITION;
}

static void reset(struct holder_client *client, struct answer *answer)
{
    if (client->connection >= 0) close(take_descriptor(&client->connection));
    holder_entries_free(answer->entries, answer->count);
    *answer = (struct answer){ 0 };
}

static int ask_locked(struct holder_client *client, const struct holder_message *request,
                      struct answer *answer, struct error **error)
{
    struct error *why = NULL;
    bool lost;
    int result = ask_once(client, request, answer, &lost, &why);
    if (result < 0 && lost) {
        error_free(why);
        why = NULL;
        reset(client, answer);
        result = ask_once(client, request, answer, &lost, &why);
    }
    if (result == 0) return 0;
    if (!is_verdict(why)) reset(client, answer);
    return error_move(error, why);
}

static int ask(struct holder_client *client, enum holder_verb verb, const struct holder_entry *what,
               const void *data, size_t length, struct answer *ret, struct error **error)
{
    *ret = (struct answer){ 0 };
    cleanup_free struct holder_message *request = malloc(sizeof *request);
    if (!request) return error_set_memory(error);
    if (holder_message_form(request, verb, what ? what->name : "", data, length, error) < 0)
        return -1;
    if (what) {
        memcpy(request->descriptors, what->descriptors, sizeof request->descriptors);
        request->descriptor_count = what->descriptor_count;
    }
    pthread_mutex_lock(&client->lock);
    int result = ask_locked(client, request, ret, error);
    pthread_mutex_unlock(&client->lock);
    if (result < 0) holder_entries_free(ret->entries, ret->count);
    return result;
}

static int name_entry(struct holder_entry *ret, const char *name, struct error **error)
{
    *ret = (struct holder_entry){ .descriptor_count = 0 };
    if (strlen(name) > HOLDER_NAME_MAX || !*name)
        return error_set(error, ERROR_INVALID, "holder: '%s' is no name", name);
    strcpy(ret->name, name);
    return 0;
}

int holder_put(struct holder_client *client, const char *name, const void *data, size_t length,
               const int *descriptors, size_t descriptor_count, struct error **error)
{
    struct holder_entry entry;
    struct answer answer;
    if (name_entry(&entry, name, error) < 0) return -1;
    if (descriptor_count > HOLDER_DESCRIPTORS_MAX)
        return error_set(error, ERROR_INVALID, "holder: '%s': too many descriptors", name);
    if (descriptor_count > 0)
        memcpy(entry.descriptors, descriptors, descriptor_count * sizeof *descriptors);
    entry.descriptor_count = descriptor_count;
    if (ask(client, HOLDER_PUT, &entry, data, length, &answer, error) < 0) return -1;
    holder_entries_free(answer.entries, answer.count);
    return 0;
}

int holder_get(struct holder_client *client, const char *name, struct holder_entry *ret,
               struct error **error)
{
    struct holder_entry entry;
    struct answer answer;
    if (name_entry(&entry, name, error) < 0 ||
        ask(client, HOLDER_GET, &entry, NULL, 0, &answer, error) < 0)
        return -1;
    if (answer.count != 1) {
        holder_entries_free(answer.entries, answer.count);
        return error_set(error, ERROR_INVALID, "holder: an answer that makes no sense");
    }
    *ret = answer.entries[0];
    free(answer.entries);
    return 0;
}

int holder_drop(struct holder_client *client, const char *name, struct error **error)
{
    struct holder_entry entry;
    struct answer answer;
    if (name_entry(&entry, name, error) < 0 ||
        ask(client, HOLDER_DROP, &entry, NULL, 0, &answer, error) < 0)
        return -1;
    holder_entries_free(answer.entries, answer.count);
    return 0;
}

int holder_list(struct holder_client *client, struct holder_entry **ret, size_t *ret_count,
                struct error **error)
{
    struct answer answer;
    if (ask(client, HOLDER_LIST, NULL, NULL, 0, &answer, error) < 0) return -1;
    *ret = answer.entries;
    *ret_count = answer.count;
    return 0;
}

int holder_abort(struct holder_client *client, struct error **error)
{
    struct answer answer;
    if (ask(client, HOLDER_ABORT, NULL, NULL, 0, &answer, error) < 0) return -1;
    holder_entries_free(answer.entries, answer.count);
    return 0;
}

int holder_connect(struct holder_client **ret, const char *socket, struct error **error)
{
    struct holder_client *client = calloc(1, sizeof *client);
    if (!client) return error_set_memory(error);
    pthread_mutex_init(&client->lock, NULL);
    client->connection = -1;
    client->path = strdup(socket);
    if (client->path)
        client->connection = holder_socket_connect(socket, error);
    else
        error_set_memory(error);
    if (client->connection < 0) {
        holder_disconnect(client);
        return -1;
    }
    *ret = client;
    return 0;
}

int holder_client_descriptor(const struct holder_client *client)
{
    return client->connection;
}

void holder_disconnect(struct holder_client *client)
{
    if (!client) return;
    if (client->connection >= 0) close(client->connection);
    pthread_mutex_destroy(&client->lock);
    free(client->path);
    free(client);
}
