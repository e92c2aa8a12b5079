/*
 * Fed: what a visitor of the control socket says, in two pieces.
 *
 * Holds: a status is sent to who asks for one, and nobody else is told
 * anything; the server goes on answering others.
 */
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "fuse/control.h"
#include "tests/fuzz/fuzz.h"

#define STATUS "{\"pid\":1}"

static char directory[] = "/tmp/sluice-fuzz-XXXXXX";
static char socket_path[64];
static struct control_server *server;

static int give_status(void *context, struct buffer *ret)
{
    (void)context;
    return buffer_append(ret, STATUS, strlen(STATUS));
}

static void stop_server(void)
{
    control_server_stop(server);
    rmdir(directory);
}

static void start_server(void)
{
    struct error *error = NULL;
    EXPECT(mkdtemp(directory));
    snprintf(socket_path, sizeof socket_path, "%s/s.sock", directory);
    EXPECT_SUCCESS(control_server_start(&server, socket_path, give_status, NULL, &error));
    EXPECT(atexit(stop_server) == 0);
}

static int visit(void)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int descriptor = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    strcpy(address.sun_path, socket_path);
    EXPECT(descriptor >= 0);
    EXPECT(connect(descriptor, (struct sockaddr *)&address, sizeof address) == 0);
    return descriptor;
}

/* What the server must do with these words, of which it sees the first line. */
static bool asks(const char *text, const char *question)
{
    return strncmp(text, question, strlen(question)) == 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    if (!server) start_server();
    size_t cut = (size_t)take_number(&data, &length, 1);
    char *text = text_of_bytes(data, length), answer[64] = { 0 };
    struct buffer other = { 0 };
    struct error *error = NULL;
    if (cut > length) cut = length;
    int descriptor = visit();
    (void)send(descriptor, data, cut, MSG_NOSIGNAL);
    (void)send(descriptor, data + cut, length - cut, MSG_NOSIGNAL);
    (void)shutdown(descriptor, SHUT_WR);
    ssize_t got = recv(descriptor, answer, sizeof answer - 1, 0);
    bool told = got > 0;
    EXPECT(!told || (asks(text, "status\n") && strcmp(answer, STATUS) == 0));
    close(descriptor);
    if (length % 16 == 0) {
        EXPECT_SUCCESS(control_query(socket_path, &other, &error));
        EXPECT(other.length == strlen(STATUS));
    }
    buffer_free(&other);
    free(text);
    return 0;
}
