/*
 * Submissions take a short lock, because many threads submit and the ring's
 * thread alone reaps. At most RING_DEPTH requests are with the kernel; more
 * wait in a list, so that neither queue of the ring can overflow.
 */
#include "cache/ring.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/thread.h"

#define RING_DEPTH   128
#define RING_THREADS 2
/* Buffered writes run on the kernel's worker threads: no more of them than a disk can use. */
#define RING_IO_WORKERS 4
/* The kernel cuts longer reads and writes at a little below 2 GiB. */
#define RING_LENGTH_MAX (1u << 30)

STAILQ_HEAD(request_list, ring_request);

struct ring {
    pthread_mutex_t lock;
    pthread_cond_t changed; /* without io_uring: work has come */
    struct request_list queued;
    unsigned with_kernel; /* requests */
    bool ending;
    bool uses_io_uring;
    struct io_uring uring;
    pthread_t threads[RING_THREADS];
    unsigned thread_count;
};

static void prepare(struct io_uring_sqe *sqe, struct ring_request *request)
{
    char *data = (char *)request->data + request->completed;
    uint64_t offset = request->offset + request->completed;
    size_t left = request->length - request->completed;
    unsigned length = left > RING_LENGTH_MAX ? RING_LENGTH_MAX : (unsigned)left;
    switch (request->operation) {
    case RING_READ:
        io_uring_prep_read(sqe, request->descriptor, data, length, offset);
        break;
    case RING_WRITE:
        io_uring_prep_write(sqe, request->descriptor, data, length, offset);
        break;
    case RING_SYNC:
        io_uring_prep_fsync(sqe, request->descriptor, IORING_FSYNC_DATASYNC);
        break;
    case RING_DROP:
        io_uring_prep_fadvise(sqe, request->descriptor, offset, (off_t)length, POSIX_FADV_DONTNEED);
        break;
    }
    io_uring_sqe_set_data(sqe, request);
}

/* With the lock held: hands queued requests to the kernel. What the kernel does not take now
 * (-EAGAIN, -EBUSY) stays in the submission queue and goes with the next call. */
static void submit_queued(struct ring *ring)
{
    struct ring_request *request;
    while (ring->with_kernel < RING_DEPTH && (request = STAILQ_FIRST(&ring->queued))) {
        struct io_uring_sqe *sqe = io_uring_get_sqe(&ring->uring);
        if (!sqe) break;
        STAILQ_REMOVE_HEAD(&ring->queued, link);
        prepare(sqe, request);
        ring->with_kernel++;
    }
    while (io_uring_sq_ready(&ring->uring) > 0) {
        int taken = io_uring_submit(&ring->uring);
        if (taken == -EINTR || taken > 0) continue;
        /* Nothing in flight would wake the reaper to try again. */
        if (taken < 0 && ring->with_kernel <= io_uring_sq_ready(&ring->uring)) {
            usleep(1000);
            continue;
        }
        break;
    }
}

/* What `result` of one step means for the whole request: true when it is complete, with
 * *ret_result set; false: go on with the rest. */
static bool step(struct ring_request *request, ssize_t result, ssize_t *ret_result)
{
    if (result == -EINTR || result == -EAGAIN) return false;
    if (result < 0 || request->operation == RING_SYNC || request->operation == RING_DROP) {
        *ret_result = result;
        return true;
    }
    if (result == 0 && request->operation == RING_WRITE && request->length > request->completed) {
        *ret_result = -EIO;
        return true;
    }
    request->completed += (size_t)result;
    *ret_result = (ssize_t)request->completed;
    return result == 0 || request->completed >= request->length;
}

/* Takes what the kernel has completed; calls back without the lock. False: nothing is left and the
 * ring ends. */
static bool reap(struct ring *ring, struct io_uring_cqe *cqe)
{
    struct ring_request *request = io_uring_cqe_get_data(cqe);
    ssize_t result = cqe->res;
    io_uring_cqe_seen(&ring->uring, cqe);
    pthread_mutex_lock(&ring->lock);
    bool complete = request && step(request, result, &result);
    if (request) ring->with_kernel--;
    if (request && !complete) STAILQ_INSERT_TAIL(&ring->queued, request, link);
    submit_queued(ring);
    pthread_mutex_unlock(&ring->lock);
    if (complete) request->done(request, result);

    pthread_mutex_lock(&ring->lock);
    bool more = !ring->ending || ring->with_kernel > 0 || !STAILQ_EMPTY(&ring->queued);
    pthread_mutex_unlock(&ring->lock);
    return more;
}

static void *reap_loop(void *argument)
{
    struct ring *ring = argument;
    struct io_uring_cqe *cqe;
    for (;;) {
        int result = io_uring_wait_cqe(&ring->uring, &cqe);
        if (result == 0) {
            if (!reap(ring, cqe)) return NULL;
        } else if (result != -EINTR && result != -EAGAIN) {
            log_error("wait for io_uring: %s", strerror(-result));
            usleep(100000);
        }
    }
}

static ssize_t perform(const struct ring_request *request)
{
    char *data = (char *)request->data + request->completed;
    off_t offset = (off_t)(request->offset + request->completed);
    size_t left = request->length - request->completed;
    ssize_t result = 0;
    switch (request->operation) {
    case RING_READ:
        result = pread(request->descriptor, data, left, offset);
        break;
    case RING_WRITE:
        result = pwrite(request->descriptor, data, left, offset);
        break;
    case RING_SYNC:
        result = fdatasync(request->descriptor);
        break;
    case RING_DROP:
        return -posix_fadvise(request->descriptor, offset, (off_t)left, POSIX_FADV_DONTNEED);
    }
    return result < 0 ? -errno : result;
}

static void *perform_loop(void *argument)
{
    struct ring *ring = argument;
    pthread_mutex_lock(&ring->lock);
    for (;;) {
        struct ring_request *request = STAILQ_FIRST(&ring->queued);
        if (!request && ring->ending && ring->with_kernel == 0) break;
        if (!request) {
            pthread_cond_wait(&ring->changed, &ring->lock);
            continue;
        }
        STAILQ_REMOVE_HEAD(&ring->queued, link);
        ring->with_kernel++;
        pthread_mutex_unlock(&ring->lock);
        ssize_t result;
        while (!step(request, perform(request), &result))
            ;
        request->done(request, result);
        pthread_mutex_lock(&ring->lock);
        ring->with_kernel--;
        if (ring->ending) pthread_cond_broadcast(&ring->changed);
    }
    pthread_mutex_unlock(&ring->lock);
    return NULL;
}

static bool start_io_uring(struct ring *ring)
{
    const char *forbidden = getenv("SLUICE_NO_IO_URING");
    if (forbidden && strcmp(forbidden, "1") == 0) return false;
    int result = io_uring_queue_init(RING_DEPTH, &ring->uring, 0);
    if (result < 0) {
        log_info("io_uring is not to be had (%s): using threads", strerror(-result));
        return false;
    }
    unsigned workers[2] = { RING_IO_WORKERS, RING_IO_WORKERS };
    io_uring_register_iowq_max_workers(&ring->uring, workers); /* a bound only: may be unknown */
    return true;
}

int ring_new(struct ring **ret, struct error **error)
{
    struct ring *ring = calloc(1, sizeof *ring);
    if (!ring) return error_set_memory(error);
    pthread_mutex_init(&ring->lock, NULL);
    pthread_cond_init(&ring->changed, NULL);
    STAILQ_INIT(&ring->queued);
    ring->uses_io_uring = start_io_uring(ring);
    unsigned wanted = ring->uses_io_uring ? 1 : RING_THREADS;
    while (ring->thread_count < wanted) {
        if (thread_start(&ring->threads[ring->thread_count], "sluice-cache",
                         ring->uses_io_uring ? reap_loop : perform_loop, ring, error) < 0) {
            ring_free(ring);
            return -1;
        }
        ring->thread_count++;
    }
    *ret = ring;
    return 0;
}

/* A no-operation makes the reaper look at `ending`. */
static void wake_reaper(struct ring *ring)
{
    struct io_uring_sqe *sqe;
    while (!(sqe = io_uring_get_sqe(&ring->uring)))
        submit_queued(ring);
    io_uring_prep_nop(sqe);
    io_uring_sqe_set_data(sqe, NULL);
    submit_queued(ring);
}

void ring_free(struct ring *ring)
{
    if (!ring) return;
    pthread_mutex_lock(&ring->lock);
    ring->ending = true;
    pthread_cond_broadcast(&ring->changed);
    if (ring->uses_io_uring && ring->thread_count > 0) wake_reaper(ring);
    pthread_mutex_unlock(&ring->lock);
    for (unsigned i = 0; i < ring->thread_count; i++)
        pthread_join(ring->threads[i], NULL);
    if (ring->uses_io_uring) io_uring_queue_exit(&ring->uring);
    pthread_cond_destroy(&ring->changed);
    pthread_mutex_destroy(&ring->lock);
    free(ring);
}

bool ring_uses_io_uring(const struct ring *ring)
{
    return ring->uses_io_uring;
}

void ring_submit(struct ring *ring, struct ring_request *request)
{
    pthread_mutex_lock(&ring->lock);
    STAILQ_INSERT_TAIL(&ring->queued, request, link);
    if (ring->uses_io_uring)
        submit_queued(ring);
    else
        pthread_cond_signal(&ring->changed);
    pthread_mutex_unlock(&ring->lock);
}
