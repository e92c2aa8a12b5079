/* Connections that outlive their servers, with the kernel: servers are processes that are killed
 * while readers wait. */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "fuse/fuse_mount.h"
#include "fuse/fuse_server.h"
#include "fuse/request_journal-internal.h"
#include "tests/unit/mounted_rootfs.h"

#define FILE_BYTES (UINT64_C(1) << 40)
#define PIECE      4096u
#define NUMBER     7u
#define POISON     (UINT64_C(666) * PIECE)
#define PARKED     (UINT64_C(777) * PIECE)
#define READERS    8u

/* What servers share with the test. */
struct shared {
    atomic_uint parked;     /* reads that servers have left unanswered */
    atomic_bool park_all;   /* leave every read unanswered */
    atomic_bool park_known; /* leave those at PARKED unanswered */
    atomic_uint crashes;
    atomic_bool has_negotiated;
    struct fuse_negotiated negotiated;
};

struct lasting_mount {
    char directory[64];
    struct tree_mount mount;
    int connection, journal;
    struct shared *shared;
    pid_t server;
    pid_t readers[64];
    unsigned reader_count;
};

static struct lasting_mount *mount_now;

static uint8_t byte_of(uint64_t offset)
{
    return (uint8_t)(offset * 31 + (offset >> 12));
}

/* ---- the server ---- */

struct context {
    struct fuse_server *server;
    struct shared *shared;
};

static void init(void *context, struct fuse_conn_info *connection)
{
    const struct context *own = context;
    fuse_server_negotiate(own->server, connection, 0);
}

static struct stat attributes_of(fuse_ino_t node)
{
    return (struct stat){ .st_ino = node,
                          .st_mode = node == FUSE_ROOT_ID ? S_IFDIR | 0555 : S_IFREG | 0444,
                          .st_nlink = 1,
                          .st_size = node == FUSE_ROOT_ID ? 0 : (off_t)FILE_BYTES };
}

static void lookup(fuse_req_t request, fuse_ino_t parent, const char *name)
{
    (void)parent;
    (void)name;
    struct fuse_entry_param entry = { .ino = 2, .attr_timeout = 1e9, .entry_timeout = 1e9 };
    entry.attr = attributes_of(2);
    fuse_reply_entry(request, &entry);
}

static void get_attributes(fuse_req_t request, fuse_ino_t node, struct fuse_file_info *file)
{
    (void)file;
    struct stat attributes = attributes_of(node);
    fuse_reply_attr(request, &attributes, 1e9);
}

static void open_file(fuse_req_t request, fuse_ino_t node, struct fuse_file_info *file)
{
    (void)node;
    file->direct_io = 1;
    fuse_reply_open(request, file);
}

static void read_file(fuse_req_t request, fuse_ino_t node, size_t size, off_t offset,
                      struct fuse_file_info *file)
{
    (void)node;
    (void)file;
    const struct context *own = fuse_server_context(request);
    struct shared *shared = own->shared;
    if ((uint64_t)offset == POISON) {
        atomic_fetch_add(&shared->crashes, 1);
        abort();
    }
    if (atomic_load(&shared->park_all) ||
        ((uint64_t)offset == PARKED && atomic_load(&shared->park_known))) {
        atomic_fetch_add(&shared->parked, 1);
        return;
    }
    cleanup_free uint8_t *data = malloc(size);
    if (!data) abort();
    for (size_t i = 0; i < size; i++)
        data[i] = byte_of((uint64_t)offset + i);
    fuse_reply_buf(request, (const char *)data, size);
}

static const struct fuse_lowlevel_ops operations = {
    .init = init,
    .lookup = lookup,
    .getattr = get_attributes,
    .open = open_file,
    .read = read_file,
};

static void serve(const struct lasting_mount *mount, enum server_end end)
{
    static struct context context;
    struct error *error = NULL;
    struct request_journal *journal;
    struct shared *shared = mount->shared;
    context.shared = shared;
    if (request_journal_open(&journal, mount->journal, end, &error) < 0) goto failed;
    struct fuse_lasting lasting = { .journal = journal, .connection = NUMBER };
    if (atomic_load(&shared->has_negotiated)) lasting.negotiated = &shared->negotiated;
    struct fuse_server_options options = { .name = "test", .lasting = &lasting };
    if (fuse_server_new(&context.server, mount->connection, &operations, &context, &options,
                        &error) < 0 ||
        fuse_server_start(context.server, &error) < 0)
        goto failed;
    if (!lasting.negotiated) shared->negotiated = *fuse_server_negotiated(context.server);
    atomic_store(&shared->has_negotiated, true);
    struct pollfd entry = { .fd = fuse_server_descriptor(context.server), .events = POLLIN };
    poll(&entry, 1, -1);
    _exit(0);
failed:
    fprintf(stderr, "server: %s\n", error_message(error));
    _exit(1);
}

static void start_server(struct lasting_mount *mount, enum server_end end)
{
    mount->server = fork();
    assert_true(mount->server >= 0);
    if (mount->server > 0) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    serve(mount, end);
}

static void kill_server(struct lasting_mount *mount)
{
    kill(mount->server, SIGKILL);
    assert_int_equal(waitpid(mount->server, NULL, 0), mount->server);
    mount->server = 0;
}

/* ---- readers ---- */

/* 0: the right bytes, 1: wrong ones, else errno. */
static int read_piece(const struct lasting_mount *mount, uint64_t offset)
{
    char path[128];
    uint8_t data[PIECE];
    snprintf(path, sizeof path, "%s/file", mount->directory);
    cleanup_close int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) return errno;
    ssize_t count = pread(descriptor, data, sizeof data, (off_t)offset);
    if (count < 0) return errno;
    for (ssize_t i = 0; i < count; i++)
        if (data[i] != byte_of(offset + (uint64_t)i)) return 1;
    return count == PIECE ? 0 : 1;
}

static void start_reader(struct lasting_mount *mount, uint64_t offset)
{
    pid_t reader = fork();
    assert_true(reader >= 0);
    if (reader == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(mount->connection); /* so that closing it in the test ends it */
        _exit(read_piece(mount, offset));
    }
    mount->readers[mount->reader_count++] = reader;
}

static int reader_result(struct lasting_mount *mount, unsigned reader)
{
    int status;
    assert_int_equal(waitpid(mount->readers[reader], &status, 0), mount->readers[reader]);
    mount->readers[reader] = 0;
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void await_parked(const struct lasting_mount *mount, unsigned count)
{
    while (atomic_load(&mount->shared->parked) < count)
        usleep(1000);
}

/* ---- set up, tear down ---- */

static void mount_lasting(struct lasting_mount *mount)
{
    struct error *error = NULL;
    struct fuse_mount_options options = { .source = "test" };
    need_fuse();
    memset(mount, 0, sizeof *mount);
    mount->connection = mount->journal = -1;
    mount_now = mount;
    snprintf(mount->directory, sizeof mount->directory, "/tmp/sluice-restart.XXXXXX");
    assert_non_null(mkdtemp(mount->directory));
    mount->shared = mmap(NULL, sizeof *mount->shared, PROT_READ | PROT_WRITE,
                         MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(mount->shared != MAP_FAILED);
    mount->journal = request_journal_make(&error);
    assert_true(request_journal_fits(mount->journal));
    mount->connection = fuse_mount_attach(&mount->mount, mount->directory, &options, &error);
    if (mount->connection < 0) fail_msg("%s", error_message(error));
    start_server(mount, SERVER_ENDED);
    while (!atomic_load(&mount->shared->has_negotiated))
        usleep(1000);
    assert_int_equal(read_piece(mount, 0), 0);
}

static int tear_down(void **state)
{
    (void)state;
    struct lasting_mount *mount = mount_now;
    mount_now = NULL;
    if (!mount) return 0;
    if (mount->server > 0) kill_server(mount);
    if (mount->connection >= 0) close(mount->connection); /* ends what readers wait for */
    for (unsigned i = 0; i < mount->reader_count; i++)
        if (mount->readers[i]) waitpid(mount->readers[i], NULL, 0);
    tree_mount_free(&mount->mount);
    if (mount->journal >= 0) close(mount->journal);
    munmap(mount->shared, sizeof *mount->shared);
    return rmdir(mount->directory);
}

/* ---- tests ---- */

static void park_readers(struct lasting_mount *mount)
{
    atomic_store(&mount->shared->park_all, true);
    for (unsigned i = 0; i < READERS; i++)
        start_reader(mount, (i + 1) * 10 * PIECE);
    await_parked(mount, READERS);
    kill_server(mount);
    atomic_store(&mount->shared->park_all, false);
}

static void check_readers(struct lasting_mount *mount)
{
    for (unsigned i = 0; i < mount->reader_count; i++)
        assert_int_equal(reader_result(mount, i), 0);
    assert_int_equal(read_piece(mount, 5 * PIECE), 0);
}

static void test_next_server_answers(void **state)
{
    (void)state;
    static struct lasting_mount mount;
    mount_lasting(&mount);
    park_readers(&mount);
    start_server(&mount, SERVER_KILLED);
    check_readers(&mount);
}

/* As on Linux before 6.9. */
static void test_without_resend(void **state)
{
    (void)state;
    static struct lasting_mount mount;
    mount_lasting(&mount);
    mount.shared->negotiated.flags2 = 0;
    park_readers(&mount);
    start_reader(&mount, 3 * PIECE); /* comes while there is no server */
    start_server(&mount, SERVER_KILLED);
    check_readers(&mount);
}

static void test_asked_while_nobody_serves(void **state)
{
    (void)state;
    static struct lasting_mount mount;
    mount_lasting(&mount);
    kill_server(&mount);
    for (unsigned i = 0; i < READERS; i++)
        start_reader(&mount, i * PIECE);
    start_server(&mount, SERVER_KILLED);
    check_readers(&mount);
}

static void test_killed_again_and_again(void **state)
{
    (void)state;
    static struct lasting_mount mount;
    mount_lasting(&mount);
    park_readers(&mount);
    for (unsigned round = 0; round < 20; round++) {
        start_server(&mount, SERVER_KILLED);
        usleep(round * 500);
        kill_server(&mount);
    }
    start_server(&mount, SERVER_KILLED);
    check_readers(&mount);
}

/* One request makes servers crash; another waits beside it all the time. */
static void crash_servers(struct lasting_mount *mount)
{
    atomic_store(&mount->shared->park_known, true);
    start_reader(mount, PARKED);
    await_parked(mount, 1);
    start_reader(mount, POISON);
    for (unsigned i = 0; i < REQUEST_CRASHES_MAX; i++) {
        int status;
        assert_int_equal(waitpid(mount->server, &status, 0), mount->server);
        mount->server = 0;
        assert_true(WIFSIGNALED(status));
        start_server(mount, SERVER_CRASHED);
    }
    assert_int_equal(reader_result(mount, 1), EIO);
    assert_int_equal(atomic_load(&mount->shared->crashes), REQUEST_CRASHES_MAX);
    assert_int_equal(read_piece(mount, 5 * PIECE), 0);
    /* It is still being waited for: its next server answers it. */
    kill_server(mount);
    atomic_store(&mount->shared->park_known, false);
    start_server(mount, SERVER_KILLED);
    assert_int_equal(reader_result(mount, 0), 0);
}

static void test_request_that_crashes_servers(void **state)
{
    (void)state;
    static struct lasting_mount mount;
    mount_lasting(&mount);
    crash_servers(&mount);
}

static void test_request_that_crashes_servers_without_resend(void **state)
{
    (void)state;
    static struct lasting_mount mount;
    mount_lasting(&mount);
    mount.shared->negotiated.flags2 = 0;
    crash_servers(&mount);
}

static void test_negotiated_text(void **state)
{
    (void)state;
    struct fuse_negotiated negotiated = { 7, 42, 131072, 0xfffffffb, 0x87 }, again;
    char text[FUSE_NEGOTIATED_TEXT_SIZE];
    assert_int_equal(fuse_negotiated_parse(&again, fuse_negotiated_format(&negotiated, text), NULL),
                     0);
    assert_memory_equal(&again, &negotiated, sizeof again);
    assert_true(fuse_negotiated_resends(&again));
    assert_int_equal(fuse_negotiated_parse(&again, "", NULL), -1);
    assert_int_equal(fuse_negotiated_parse(&again, "8.0 0 0 0", NULL), -1);
    assert_int_equal(fuse_negotiated_parse(&again, "7.42 131072 0 0 x", NULL), -1);
}

int main(void)
{
    log_set_level(LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_next_server_answers, tear_down),
        cmocka_unit_test_teardown(test_without_resend, tear_down),
        cmocka_unit_test_teardown(test_asked_while_nobody_serves, tear_down),
        cmocka_unit_test_teardown(test_killed_again_and_again, tear_down),
        cmocka_unit_test_teardown(test_request_that_crashes_servers, tear_down),
        cmocka_unit_test_teardown(test_request_that_crashes_servers_without_resend, tear_down),
        cmocka_unit_test(test_negotiated_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
