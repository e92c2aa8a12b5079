/*
 * The handler finds the mapping that was hit in a list that only grows: a mapping that is freed
 * leaves its place for the next one. It takes no lock, so places may change while it reads them;
 * but the one it looks for does not, because a thread is using it. A place whose version moved
 * while it was read is therefore another one, and is passed over.
 */
#include "base/mapping.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"

struct mapping {
    struct mapping *next;
    atomic_uint version; /* odd while the place is changed */
    _Atomic uintptr_t start;
    _Atomic size_t length; /* 0: the place is free */
    atomic_bool writable;
    atomic_bool damaged;
    dev_t device; /* and the inode: what is mapped */
    ino_t inode;
    int file; /* -1: not kept */
};

static _Atomic(struct mapping *) places;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* for who takes and leaves places */
static struct sigaction before;                          /* what SIGBUS did without us */

/* ---- in the handler ---- */

static struct mapping *find(uintptr_t address)
{
    for (struct mapping *mapping = atomic_load(&places); mapping; mapping = mapping->next) {
        unsigned version = atomic_load(&mapping->version);
        uintptr_t start = atomic_load(&mapping->start);
        size_t length = atomic_load(&mapping->length);
        if (version % 2 == 0 && atomic_load(&mapping->version) == version && address >= start &&
            address - start < length)
            return mapping;
    }
    return NULL;
}

/* The whole of it: page by page, a long mapping would meet the kernel's bound on the number of
 * mappings. Damaged is said first, so that nobody takes the zeros for what the file has. */
static bool replace(struct mapping *mapping)
{
    int access = PROT_READ | (atomic_load(&mapping->writable) ? PROT_WRITE : 0);
    atomic_store(&mapping->damaged, true);
    void *start = (void *)atomic_load(&mapping->start); // NOLINT(performance-no-int-to-ptr)
    const void *replaced = mmap(start, atomic_load(&mapping->length), access,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    return replaced == start;
}

/* Not ours: what would have happened without us. */
static void pass_on(int number, siginfo_t *information, void *context)
{
    if (before.sa_flags & SA_SIGINFO) {
        before.sa_sigaction(number, information, context);
    } else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
        before.sa_handler(number);
    } else if (information->si_code > 0) {
        /* The instruction is run again on return. */
        signal(number, SIG_DFL);
    } else if (before.sa_handler == SIG_DFL) {
        signal(number, SIG_DFL);
        raise(number);
    }
}

static void on_bus_error(int number, siginfo_t *information, void *context)
{
    int saved = errno;
    struct mapping *mapping =
        information->si_code > 0 ? find((uintptr_t)information->si_addr) : NULL;
    if (!mapping || !replace(mapping)) pass_on(number, information, context);
    errno = saved;
}

/* Also again, where somebody (a test's harness) has taken the signal since. Under the lock. */
static int install_handler(struct error **error)
{
    struct sigaction now;
    struct sigaction action = { .sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO | SA_RESTART };
    sigemptyset(&action.sa_mask);
    if (sigaction(SIGBUS, NULL, &now) < 0) return error_set_errno(error, errno, "watch for SIGBUS");
    if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_bus_error) return 0;
    before = now;
    if (sigaction(SIGBUS, &action, NULL) == 0) return 0;
    return error_set_errno(error, errno, "watch for SIGBUS");
}

/* ---- taking and leaving places ---- */

static struct mapping *take_place(void)
{
    for (struct mapping *mapping = atomic_load(&places); mapping; mapping = mapping->next)
        if (atomic_load(&mapping->length) == 0) return mapping;
    struct mapping *mapping = calloc(1, sizeof *mapping);
    if (!mapping) return NULL;
    mapping->next = atomic_load(&places);
    atomic_store(&places, mapping);
    return mapping;
}

static void change_place(struct mapping *mapping, void *start, size_t length, bool writable)
{
    atomic_fetch_add(&mapping->version, 1);
    atomic_store(&mapping->start, (uintptr_t)start);
    atomic_store(&mapping->length, length);
    atomic_store(&mapping->writable, writable);
    atomic_store(&mapping->damaged, false);
    atomic_fetch_add(&mapping->version, 1);
}

int mapping_new(struct mapping **ret, int descriptor, size_t length, enum mapping_access access,
                struct error **error)
{
    bool writable = access == MAPPING_READ_WRITE;
    struct stat status;
    if (fstat(descriptor, &status) < 0) return error_set_errno(error, errno, "map a file");
    void *start =
        mmap(NULL, length, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED, descriptor, 0);
    if (start == MAP_FAILED)
        return error_set_errno(error, errno, "map a file of %zu bytes", length);
    pthread_mutex_lock(&lock);
    struct mapping *mapping = NULL;
    if (install_handler(error) == 0) {
        mapping = take_place();
        if (mapping) {
            mapping->device = status.st_dev;
            mapping->inode = status.st_ino;
            mapping->file = -1;
            change_place(mapping, start, length, writable);
        } else {
            error_set_memory(error);
        }
    }
    pthread_mutex_unlock(&lock);
    if (!mapping) {
        munmap(start, length);
        return -1;
    }
    *ret = mapping;
    return 0;
}

void mapping_free(struct mapping *mapping)
{
    if (!mapping) return;
    pthread_mutex_lock(&lock);
    void *start = mapping_data(mapping);
    size_t length = mapping_length(mapping);
    if (mapping->file >= 0) close(take_descriptor(&mapping->file));
    change_place(mapping, NULL, 0, false);
    pthread_mutex_unlock(&lock);
    munmap(start, length);
}

void *mapping_data(const struct mapping *mapping)
{
    return (void *)atomic_load(&mapping->start); // NOLINT(performance-no-int-to-ptr)
}

size_t mapping_length(const struct mapping *mapping)
{
    return atomic_load(&mapping->length);
}

bool mapping_is_damaged(const struct mapping *mapping)
{
    /* What was read before this call must not be read after it. */
    atomic_thread_fence(memory_order_acquire);
    return atomic_load(&mapping->damaged);
}

void mapping_keep_file(struct mapping *mapping, int descriptor)
{
    struct stat status;
    bool same = fstat(descriptor, &status) == 0 && status.st_dev == mapping->device &&
                status.st_ino == mapping->inode;
    if (same && mapping->file < 0)
        mapping->file = descriptor;
    else
        close(descriptor);
}

int mapping_file(const struct mapping *mapping)
{
    return mapping->file;
}
