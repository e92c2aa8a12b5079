#include "fuse/rootfs.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "fuse/rootfs-internal.h"

#define DEFAULT_THREADS 4u
#define THREADS_MAX     64u

/* ---- the connection ---- */

static void negotiate(void *context, struct fuse_conn_info *connection)
{
    struct rootfs *rootfs = context;
    /* Without READDIRPLUS_AUTO, each listing brings the attributes: a walk needs no lookups. */
    connection->want =
        connection->capable &
        (FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO | FUSE_CAP_PARALLEL_DIROPS |
         FUSE_CAP_READDIRPLUS | FUSE_CAP_CACHE_SYMLINKS | FUSE_CAP_EXPLICIT_INVAL_DATA);
    if (rootfs->image->has_acls) connection->want |= connection->capable & FUSE_CAP_POSIX_ACL;
    connection->max_background = FUSE_MOUNT_BACKGROUND;
    connection->congestion_threshold = FUSE_MOUNT_BACKGROUND;
    rootfs->no_open = connection->capable & FUSE_CAP_NO_OPEN_SUPPORT;
    rootfs->no_opendir = connection->capable & FUSE_CAP_NO_OPENDIR_SUPPORT;
    rootfs->initialized = true;
}

/* ENOSYS: the kernel need not ask again, no file of this mount is ever opened or released here. */
static void open_file(fuse_req_t request, fuse_ino_t node, struct fuse_file_info *file)
{
    (void)node;
    const struct rootfs *rootfs = fuse_req_userdata(request);
    file->keep_cache = 1;
    if (rootfs->no_open)
        fuse_reply_err(request, ENOSYS);
    else
        fuse_reply_open(request, file);
}

static void open_directory(fuse_req_t request, fuse_ino_t node, struct fuse_file_info *file)
{
    (void)node;
    const struct rootfs *rootfs = fuse_req_userdata(request);
    file->keep_cache = 1;
    file->cache_readdir = 1;
    if (rootfs->no_opendir)
        fuse_reply_err(request, ENOSYS);
    else
        fuse_reply_open(request, file);
}

static const struct fuse_lowlevel_ops operations = {
    .init = negotiate,
    .lookup = rootfs_lookup,
    .forget = rootfs_forget,
    .forget_multi = rootfs_forget_multi,
    .getattr = rootfs_getattr,
    .readlink = rootfs_readlink,
    .open = open_file,
    .opendir = open_directory,
    .read = rootfs_read,
    .lseek = rootfs_lseek,
    .readdir = rootfs_readdir,
    .readdirplus = rootfs_readdirplus,
    .statfs = rootfs_statfs,
    .getxattr = rootfs_getxattr,
    .listxattr = rootfs_listxattr,
};

/* libfuse knows one way in which a connection ends. */
static ssize_t read_device(int descriptor, void *data, size_t length, void *context)
{
    (void)context;
    ssize_t count = read(descriptor, data, length);
    if (count < 0 && errno == ECONNABORTED) errno = ENODEV;
    return count;
}

/* A reply that nobody waits for any more (its reader was killed, the mount is gone) is no error. */
static ssize_t write_device(int descriptor, struct iovec *vectors, int count, void *context)
{
    (void)context;
    ssize_t written = writev(descriptor, vectors, count);
    if (written < 0 && (errno == ENODEV || errno == ECONNABORTED)) errno = ENOENT;
    return written;
}

static void log_libfuse(enum fuse_log_level level, const char *format, va_list arguments)
{
    char line[512];
    int length = vsnprintf(line, sizeof line, format, arguments);
    if (length < 0) return;
    line[strcspn(line, "\n")] = 0;
    log_line(level <= FUSE_LOG_WARNING ? LOG_WARNING : LOG_DEBUG, "libfuse: %s", line);
}

static int start_session(struct rootfs *rootfs, int *descriptor, struct error **error)
{
    static const struct fuse_custom_io device = { .read = read_device, .writev = write_device };
    char *arguments[] = { (char *)"sluice", NULL };
    struct fuse_args list = FUSE_ARGS_INIT(1, arguments);
    fuse_set_log_func(log_libfuse);
    rootfs->session = fuse_session_new(&list, &operations, sizeof operations, rootfs);
    fuse_opt_free_args(&list);
    if (!rootfs->session) return error_set(error, ERROR_SYSTEM, "libfuse cannot start a session");
    int result = fuse_session_custom_io(rootfs->session, &device, *descriptor);
    if (result < 0) return error_set_errno(error, -result, "libfuse cannot use the connection");
    *descriptor = -1;
    return 0;
}

static int add_up_devices(struct rootfs *rootfs, struct error **error)
{
    for (uint32_t i = 1; i <= rootfs->image->device_count; i++) {
        uint64_t length;
        struct digest tag;
        if (erofs_image_device(rootfs->image, i, &length, &tag, error) < 0) return -1;
        if (__builtin_add_overflow(rootfs->content_length, length, &rootfs->content_length))
            return error_set(error, ERROR_INVALID, "metadata: devices are larger than 2^64 bytes");
    }
    return 0;
}

static int prepare(struct rootfs *rootfs, struct layer_device *const *devices,
                   const struct rootfs_options *options, struct error **error)
{
    if (rootfs->device_count < rootfs->image->device_count)
        return error_set(error, ERROR_INVALID, "metadata: wants %u devices, there are %u",
                         rootfs->image->device_count, rootfs->device_count);
    if (add_up_devices(rootfs, error) < 0) return -1;
    rootfs->thread_count = options->threads ? options->threads : DEFAULT_THREADS;
    if (rootfs->thread_count > THREADS_MAX) rootfs->thread_count = THREADS_MAX;
    rootfs->devices = calloc(rootfs->device_count + 1, sizeof(struct layer_device *));
    if (!rootfs->devices) return error_set_memory(error);
    if (rootfs->device_count > 0)
        memcpy(rootfs->devices, devices, rootfs->device_count * sizeof(struct layer_device *));
    rootfs->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (rootfs->wake < 0) return error_set_errno(error, errno, "make an eventfd");
    return 0;
}

/* ---- mounting, oneself or by somebody with the privileges ---- */

static int attach_by_mounter(struct rootfs *rootfs, const struct rootfs_options *options,
                             struct error **error)
{
    rootfs->mount.mountpoint = strdup(options->mountpoint);
    if (!rootfs->mount.mountpoint) return error_set_memory(error);
    int descriptor = rootfs->mounter->attach(rootfs->mounter->context, options->source, error);
    rootfs->mount.attached = descriptor >= 0;
    return descriptor;
}

static void detach(struct rootfs *rootfs)
{
    if (!rootfs->mounter) {
        fuse_mount_detach(&rootfs->mount);
    } else if (rootfs->mount.attached) {
        rootfs->mount.attached = false;
        rootfs->mounter->detach(rootfs->mounter->context);
    }
}

static void tune(struct rootfs *rootfs)
{
    if (rootfs->mounter)
        rootfs->mounter->tune(rootfs->mounter->context);
    else
        fuse_mount_tune(&rootfs->mount);
}

static int attach(struct rootfs *rootfs, const struct rootfs_options *options, struct error **error)
{
    struct fuse_mount_options how = { .source = options->source,
                                      .allow_suid = options->allow_suid,
                                      .allow_devices = options->allow_devices,
                                      .allow_other = options->allow_other };
    int descriptor = rootfs->mounter
                         ? attach_by_mounter(rootfs, options, error)
                         : fuse_mount_attach(&rootfs->mount, options->mountpoint, &how, error);
    if (descriptor < 0) return -1;
    int result = start_session(rootfs, &descriptor, error);
    if (descriptor >= 0) {
        detach(rootfs);
        close(descriptor);
    }
    return result;
}

int rootfs_mount(struct rootfs **ret, const struct erofs_image *image,
                 struct layer_device *const *devices, uint32_t device_count,
                 const struct rootfs_options *options, struct error **error)
{
    struct rootfs *rootfs = calloc(1, sizeof *rootfs);
    if (!rootfs) return error_set_memory(error);
    rootfs->image = image;
    rootfs->metadata = options->metadata;
    rootfs->mounter = options->mounter;
    rootfs->device_count = device_count;
    rootfs->wake = -1;
    pthread_mutex_init(&rootfs->lock, NULL);
    pthread_cond_init(&rootfs->changed, NULL);
    if (prepare(rootfs, devices, options, error) < 0 || attach(rootfs, options, error) < 0) {
        rootfs_free(rootfs);
        return -1;
    }
    *ret = rootfs;
    return 0;
}

/* ---- serving ---- */

struct server_thread {
    struct rootfs *rootfs;
    pthread_t thread;
    bool running; /* to be joined */
    atomic_bool ended;
    struct fuse_buf request;
    int failure; /* errno with which it ended; 0: unmounted or stopped */
};

/* 1: a request was handled, 0: the file system is unmounted or stopped, or a negative errno. */
static int serve_one(struct rootfs *rootfs, struct fuse_buf *request)
{
    int length = fuse_session_receive_buf(rootfs->session, request);
    if (length == -EINTR || length == -EAGAIN) return 1;
    if (length <= 0) return length;
    fuse_session_process_buf(rootfs->session, request);
    return 1;
}

static void wake_supervisor(struct rootfs *rootfs)
{
    int saved = errno;
    uint64_t one = 1;
    /* Only fails when the counter is full, and then it is awake. */
    ssize_t ignored = write(rootfs->wake, &one, sizeof one);
    (void)ignored;
    errno = saved;
}

static void *run_server_thread(void *context)
{
    struct server_thread *server = context;
    int result;
    while (!fuse_session_exited(server->rootfs->session)) {
        result = serve_one(server->rootfs, &server->request);
        if (result > 0) continue;
        server->failure = -result;
        break;
    }
    atomic_store(&server->ended, true);
    wake_supervisor(server->rootfs);
    return NULL;
}

/* The first request is FUSE_INIT, and the kernel sends nothing else before its answer. */
static int answer_init(struct rootfs *rootfs, struct fuse_buf *request, struct error **error)
{
    const char *mountpoint = rootfs->mount.mountpoint;
    while (!rootfs->initialized && !fuse_session_exited(rootfs->session)) {
        int result = serve_one(rootfs, request);
        if (result < 0)
            return error_set_errno(error, -result, "serve '%s': read from FUSE", mountpoint);
        if (result == 0)
            return error_set(error, ERROR_CANCELLED, "'%s' was unmounted before it could be used",
                             mountpoint);
    }
    if (fuse_session_exited(rootfs->session))
        return error_set(error, ERROR_UNSUPPORTED, "serve '%s': this kernel's FUSE is too old",
                         mountpoint);
    return 0;
}

static void do_nothing(int number)
{
    (void)number;
}

/* Threads sleep in read(2), where a signal is all that reaches them (a poll before each read
 * would cost every request, and wake all threads for each). Sent to these threads only. */
static int wake_signal(void)
{
    return SIGRTMAX - 3;
}

/* Other signals are for the caller's thread. */
static int start_threads(struct rootfs *rootfs, struct server_thread *servers, struct error **error)
{
    struct sigaction action = { .sa_handler = do_nothing };
    sigaction(wake_signal(), &action, NULL);
    sigset_t others, before;
    sigfillset(&others);
    sigdelset(&others, wake_signal());
    sigdelset(&others, SIGBUS); /* base/mapping.h */
    pthread_sigmask(SIG_SETMASK, &others, &before);
    int number = 0;
    for (unsigned i = 0; i < rootfs->thread_count && !number; i++) {
        number = pthread_create(&servers[i].thread, NULL, run_server_thread, &servers[i]);
        servers[i].running = !number;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (number)
        return error_set_errno(error, number, "serve '%s': start a thread",
                               rootfs->mount.mountpoint);
    return 0;
}

static void wait_for_wake(struct rootfs *rootfs)
{
    struct pollfd entry = { .fd = rootfs->wake, .events = POLLIN };
    while (poll(&entry, 1, -1) < 0 && errno == EINTR)
        continue;
}

/* A signal that comes just before the thread falls asleep is lost: it is sent until it works. */
static void join_thread(struct server_thread *server)
{
    while (!atomic_load(&server->ended)) {
        pthread_kill(server->thread, wake_signal());
        nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
    }
    pthread_join(server->thread, NULL);
}

static void stop_threads(struct rootfs *rootfs, struct server_thread *servers)
{
    fuse_session_exit(rootfs->session);
    for (unsigned i = 0; i < rootfs->thread_count; i++)
        if (servers[i].running) join_thread(&servers[i]);
}

static int serve_with(struct rootfs *rootfs, struct server_thread *servers,
                      void (*ready)(void *context), void *context, struct error **error)
{
    for (unsigned i = 0; i < rootfs->thread_count; i++)
        servers[i].rootfs = rootfs;
    if (answer_init(rootfs, &servers[0].request, error) < 0) return -1;
    tune(rootfs);
    int result = start_threads(rootfs, servers, error);
    if (!result) {
        if (ready) ready(context);
        wait_for_wake(rootfs);
    }
    /* While somebody still answers: the unmounting itself may look at the tree. */
    detach(rootfs);
    stop_threads(rootfs, servers);
    rootfs_read_close(rootfs);
    for (unsigned i = 0; i < rootfs->thread_count && !result; i++)
        if (servers[i].failure)
            result = error_set_errno(error, servers[i].failure, "serve '%s': read from FUSE",
                                     rootfs->mount.mountpoint);
    return result;
}

int rootfs_serve(struct rootfs *rootfs, void (*ready)(void *context), void *context,
                 struct error **error)
{
    struct server_thread *servers = calloc(rootfs->thread_count, sizeof *servers);
    if (!servers) return error_set_memory(error);
    int result = serve_with(rootfs, servers, ready, context, error);
    for (unsigned i = 0; i < rootfs->thread_count; i++)
        free(servers[i].request.mem);
    free(servers);
    return result;
}

void rootfs_stop(struct rootfs *rootfs)
{
    wake_supervisor(rootfs);
}

void rootfs_free(struct rootfs *rootfs)
{
    if (!rootfs) return;
    detach(rootfs);
    rootfs_read_close(rootfs);
    rootfs_read_drain(rootfs);
    /* Closes the connection. */
    if (rootfs->session) fuse_session_destroy(rootfs->session);
    fuse_mount_free(&rootfs->mount);
    if (rootfs->wake >= 0) close(rootfs->wake);
    free(rootfs->devices);
    pthread_cond_destroy(&rootfs->changed);
    pthread_mutex_destroy(&rootfs->lock);
    free(rootfs);
}
