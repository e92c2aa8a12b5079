/*
 * The broker's own end. Mounting is done as it is asked for, one after the other; a search for
 * credentials has a thread of its own, because a helper may take its time and the server's end does
 * not wait for it: the socket for the answer is then closed, which ends the helper.
 */
#include "node/broker.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/exit_code.h"
#include "node/child_process.h"
#include "node/credential_searches.h"
#include "node/mount_keeper.h"
#include "node/question.h"

bool broker_request_read(const char *text, struct broker_request *ret)
{
    char *end;
    if (!text[0] || text[1] < '0' || text[1] > '9') return false;
    ret->verb = (enum broker_verb)text[0];
    ret->mount = strtoull(text + 1, &end, 10);
    ret->text = end + 1;
    return *end == ' ';
}

static void serve(struct mount_keeper *keeper, struct credential_searches *searches)
{
    for (;;) {
        char text[QUESTION_LENGTH_MAX + 1];
        cleanup_close int to = -1;
        struct broker_request request;
        if (question_receive(CHILD_FIRST_SOCKET, text, &to) <= 0) return;
        if (to < 0 || !broker_request_read(text, &request)) continue;
        if (request.verb == BROKER_CREDENTIALS)
            credential_searches_begin(searches, request.text, &to);
        else
            mount_keeper_handle(keeper, request.verb, request.text, to);
    }
}

static void do_nothing(int number)
{
    (void)number;
}

/* Who ends a whole group or unit of processes gets the server to unmount, for which it needs us.
 * Handlers, because programs that we run would inherit that a signal is ignored. */
static void outlive_signals(void)
{
    static const int signals[] = { SIGTERM, SIGINT, SIGHUP, SIGQUIT };
    struct sigaction action = { .sa_handler = do_nothing, .sa_flags = SA_RESTART };
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        sigaction(signals[i], &action, NULL);
    setsid();
}

int broker_main(int argc, char **argv)
{
    struct mount_keeper keeper;
    struct credential_searches searches;
    if (argc != 4 || !child_process_take_socket(CHILD_FIRST_SOCKET)) {
        fputs(BROKER_NAME ": 'sluice mount' starts this; it is of no use otherwise\n", stderr);
        return EXIT_USAGE;
    }
    mount_keeper_init(&keeper, argv[1], strcmp(argv[2], "suid") == 0, strcmp(argv[3], "dev") == 0);
    credential_searches_init(&searches, NULL, NULL);
    outlive_signals();
    child_process_show_name(BROKER_NAME);
    if (chdir("/") < 0) return EXIT_FAILED;
    serve(&keeper, &searches);
    /* So that their helpers are ended. One that goes on uses what is on this stack. */
    if (!credential_searches_end(&searches)) _exit(EXIT_FAILED);
    mount_keeper_free(&keeper);
    return EXIT_OK;
}
