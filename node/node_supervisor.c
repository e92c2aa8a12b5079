#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "node/child_process.h"
#include "node/node_client-internal.h"
#include "node/node_protocol-internal.h"
#include "node/node_server.h"
#include "node/question.h"

/* The end of the server before is waited for by the next one: request_journal_open(). */
#define START_TIMEOUT_MS 90000
/* One that has lived for so long is followed by the next at once. */
#define LIFE_MS         5000u
#define PAUSE_SERVED_MS 50u
#define PAUSE_FIRST_MS  100u
#define PAUSE_MOST_MS   5000u

struct started {
    pid_t process;
    int commands, requests;
};

/* ---- starting ---- */

/* The parent's number, as the child sees it when it looks. */
static int send_start(const struct node_client *client, int commands, struct error **error)
{
    const struct question_peer peer = { commands, "the server" };
    cleanup_buffer struct buffer ignored = { 0 };
    cleanup_json json_t *command = node_start_encode(&client->options.node, error);
    if (!command) return -1;
    json_object_set_new(command, "parent", json_integer((json_int_t)getpid()));
    json_object_set_new(command, "before", json_integer((json_int_t)client->last_end));
    cleanup_free char *text = json_dumps(command, JSON_COMPACT);
    if (!text) return error_set_memory(error);
    return question_ask(&peer, text, strlen(text), START_TIMEOUT_MS, &ignored, error);
}

static void end_process(const struct started *server, int *ret_status)
{
    kill(server->process, SIGKILL);
    while (waitpid(server->process, ret_status, 0) < 0 && errno == EINTR)
        continue;
}

static int spawn(const struct node_client *client, struct started *ret, struct error **error)
{
    char *const arguments[] = { (char *)NODE_SERVER_NAME, NULL };
    int first[2], second[2];
    *ret = (struct started){ .commands = -1, .requests = -1 };
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, first) < 0)
        return error_set_errno(error, errno, "make a socket");
    cleanup_close int commands = first[0];
    cleanup_close int their_commands = first[1];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, second) < 0)
        return error_set_errno(error, errno, "make a socket");
    cleanup_close int requests = second[0];
    cleanup_close int their_requests = second[1];
    const int sockets[] = { their_commands, their_requests, client->journal };
    struct child_process child = { .program = client->options.program,
                                   .arguments = arguments,
                                   .sockets = sockets,
                                   .socket_count = 3,
                                   .keeps_errors = true };
    if (child_process_start(&ret->process, &child, error) < 0) return -1;
    ret->commands = take_descriptor(&commands);
    ret->requests = take_descriptor(&requests);
    return 0;
}

/* 0: none. Whoever stops the client does not wait for it. */
static void note_starting(struct node_client *client, pid_t process)
{
    pthread_mutex_lock(&client->lock);
    client->starting = process;
    if (process && client->stopping) kill(process, SIGKILL);
    pthread_mutex_unlock(&client->lock);
}

static int start_server(struct node_client *client, struct started *ret, struct error **error)
{
    if (spawn(client, ret, error) < 0) return -1;
    note_starting(client, ret->process);
    int result = send_start(client, ret->commands, error);
    note_starting(client, 0);
    if (result == 0) return 0;
    int ignored;
    end_process(ret, &ignored);
    close(ret->commands);
    close(ret->requests);
    return error_prefix(error, "start the server");
}

/* ---- what it asks ---- */

/* The server has ended an image by itself. */
static void image_gone(struct node_client *client, uint64_t number)
{
    pthread_mutex_lock(&client->lock);
    struct client_image *image = client_image_of_number(client, number);
    if (image) client_image_gone(client, image);
    client_give_back_again(client);
    pthread_mutex_unlock(&client->lock);
}

static void handle_mount(struct node_client *client, const struct broker_request *request, int to)
{
    pthread_mutex_lock(&client->lock);
    struct client_image *image = client_image_of_number(client, request->mount);
    if (image && !image->mountpoint) image = NULL;
    if (image) image->references++;
    pthread_mutex_unlock(&client->lock);
    if (!image) return; /* the answer is that there is none */
    mount_keeper_handle(&image->keeper, request->verb, request->text, to);
    pthread_mutex_lock(&client->lock);
    client_image_unreference(image);
    pthread_mutex_unlock(&client->lock);
}

/* Until the server ends. */
static void serve_requests(struct node_client *client, int requests)
{
    for (;;) {
        char text[QUESTION_LENGTH_MAX + 1];
        cleanup_close int to = -1;
        struct broker_request request;
        if (question_receive(requests, text, &to) <= 0) return;
        if (to < 0 || !broker_request_read(text, &request)) continue;
        if (request.verb == BROKER_CREDENTIALS)
            credential_searches_begin(&client->searches, request.text, &to);
        else if (request.verb == BROKER_GONE)
            image_gone(client, request.mount);
        else
            handle_mount(client, &request, to);
    }
}

/* ---- one after the other ---- */

/* False: nobody wants it any more. */
static bool note_running(struct node_client *client, const struct started *server)
{
    pthread_mutex_lock(&client->lock);
    error_free(client->failure);
    client->failure = NULL;
    client->commands = server->commands;
    client->requests = server->requests;
    client->process = server->process;
    client->servers++;
    client->running = true;
    client_give_back_again(client);
    bool wanted = !client->stopping;
    pthread_cond_broadcast(&client->changed);
    pthread_mutex_unlock(&client->lock);
    return wanted;
}

static void note_ended(struct node_client *client, const struct started *server)
{
    pthread_mutex_lock(&client->lock);
    client->running = false;
    client->commands = client->requests = -1;
    client->process = 0;
    if (!client->stopping) client_images_lost(client);
    pthread_cond_broadcast(&client->changed);
    pthread_mutex_unlock(&client->lock);
    close(server->commands);
    close(server->requests);
}

static enum server_end kind_of_end(int status)
{
    if (WIFSIGNALED(status)) return WTERMSIG(status) == SIGKILL ? SERVER_KILLED : SERVER_CRASHED;
    return WEXITSTATUS(status) == 0 ? SERVER_ENDED : SERVER_CRASHED;
}

static void tell_end(const struct node_client *client, int status)
{
    if (client->stopping) return;
    if (WIFSIGNALED(status))
        log_error("the server was ended by signal %d; starting the next", WTERMSIG(status));
    else
        log_error("the server has ended with status %d; starting the next", WEXITSTATUS(status));
}

/* What makes a server hang is as much to blame as what crashes it. */
static void note_how(struct node_client *client, int status)
{
    pthread_mutex_lock(&client->lock);
    client->last_end = client->hung ? SERVER_CRASHED : kind_of_end(status);
    client->hung = false;
    client_images_blame(client, client->last_end);
    pthread_mutex_unlock(&client->lock);
}

static void run_server(struct node_client *client, const struct started *server)
{
    int status = 0;
    if (note_running(client, server)) serve_requests(client, server->requests);
    note_ended(client, server);
    end_process(server, &status);
    note_how(client, status);
    tell_end(client, status);
}

static void note_failure(struct node_client *client, struct error *reason)
{
    pthread_mutex_lock(&client->lock);
    if (client->servers > 0) log_error("%s; trying again", error_message(reason));
    error_free(client->failure);
    client->failure = reason;
    pthread_cond_broadcast(&client->changed);
    pthread_mutex_unlock(&client->lock);
}

/* False: no server is wanted any more. */
static bool pause_before_next(struct node_client *client, unsigned milliseconds)
{
    pthread_mutex_lock(&client->lock);
    bool wanted = client_pause(client, milliseconds);
    pthread_mutex_unlock(&client->lock);
    return wanted;
}

/* Readers wait for the next server, so one that has served is followed soon, if not at once when
 * that happens again and again; one that cannot even start has time. */
static unsigned next_pause(unsigned pause, bool came_up, uint64_t lived_ms)
{
    unsigned most = came_up ? PAUSE_SERVED_MS : PAUSE_MOST_MS;
    if (came_up && lived_ms >= LIFE_MS) return 0;
    if (!came_up && pause < PAUSE_FIRST_MS) return PAUSE_FIRST_MS;
    if (pause == 0) return 1;
    return 2 * pause < most ? 2 * pause : most;
}

void *node_supervise(void *argument)
{
    struct node_client *client = argument;
    unsigned pause = 0;
    while (pause_before_next(client, pause)) {
        struct started server;
        struct error *reason = NULL;
        uint64_t begun = clock_ms();
        bool came_up = start_server(client, &server, &reason) == 0;
        if (came_up)
            run_server(client, &server);
        else
            note_failure(client, reason);
        pause = next_pause(pause, came_up, clock_ms() - begun);
    }
    return NULL;
}
