/*
 * The server is asked for a sign of life. One that hangs is killed: the next one goes on with what
 * it has left, as after a crash.
 */
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "node/heartbeat-internal.h"
#include "node/node_client-internal.h"
#include "node/node_protocol-internal.h"
#include "node/question.h"

struct watch {
    struct heartbeat heartbeat;
    struct process_share share;
    int answer; /* where it comes; -1: nothing is asked */
};

/* A socket that is full already would hold us up. */
static bool has_room(int socket)
{
    struct pollfd watched = { .fd = socket, .events = POLLOUT };
    return poll(&watched, 1, 0) > 0;
}

static void ask(struct watch *watch, int commands)
{
    static const char command[] = "{\"command\": \"" NODE_PING "\"}";
    const struct question_peer peer = { commands, "the server" };
    if (watch->answer < 0 && has_room(commands))
        watch->answer = question_send(&peer, command, strlen(command), NULL);
}

/* Whatever it says. */
static bool has_answered(struct watch *watch)
{
    struct pollfd watched = { .fd = watch->answer, .events = POLLIN };
    if (watch->answer < 0 || poll(&watched, 1, 0) <= 0) return false;
    close(take_descriptor(&watch->answer));
    return true;
}

static bool hangs(struct node_client *client, struct watch *watch)
{
    bool answered = has_answered(watch), starved = false;
    if (answered)
        watch->share = (struct process_share){ 0 };
    else
        starved = process_is_starved(client->process, &watch->share);
    return heartbeat_lost(&watch->heartbeat, clock_ms(), answered, starved);
}

static void end_hanging(struct node_client *client)
{
    log_error("the server has not answered for %llu ms: it hangs, and is killed",
              (unsigned long long)client->options.watchdog_ms);
    client->hung = true;
    client->hangs++;
    kill(client->process, SIGKILL);
}

/* One server, until it has ended. */
static void watch_server(struct node_client *client)
{
    struct watch watch = { .answer = -1 };
    unsigned server = client->servers;
    heartbeat_begin(&watch.heartbeat, client->options.watchdog_ms, clock_ms());
    while (client->running && client->servers == server && !client->hung) {
        ask(&watch, client->commands);
        if (!client_pause(client, (unsigned)watch.heartbeat.beat_ms)) break;
        if (client->running && client->servers == server && hangs(client, &watch))
            end_hanging(client);
    }
    if (watch.answer >= 0) close(watch.answer);
}

void *node_watch(void *argument)
{
    struct node_client *client = argument;
    pthread_mutex_lock(&client->lock);
    while (!client->stopping) {
        if (client->running && !client->hung)
            watch_server(client);
        else
            pthread_cond_wait(&client->changed, &client->lock);
    }
    pthread_mutex_unlock(&client->lock);
    return NULL;
}
