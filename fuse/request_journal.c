/*
 * A table of slots. A request's place follows from its number (the kernel counts them up), or is
 * the first free one of a few behind it; so whoever answers finds it, whichever thread that is, and
 * neighbours do not meet.
 */
#include "fuse/request_journal.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "fuse/request_journal-internal.h"

#define JOURNAL_MAGIC   UINT64_C(0x314c4e524a58554c) /* changes with anything below */
#define SLOTS           4096u
#define PROBES          64u
#define AREAS           1024u
#define CLAIM_WAIT_MS   10000u
#define KILLED_WAIT_MS  60000u
#define AWAITED_SERVERS 3u /* that may end before a request comes again which was answered */

struct journal_area {
    _Alignas(8) uint8_t request[SLOT_REQUEST_MAX];
    _Atomic uint32_t taken;
    uint32_t unused;
    _Atomic uint64_t connection; /* of what is in it */
};

struct journal_memory {
    uint64_t magic;
    _Atomic uint32_t unnoted; /* requests in flight for which there was no slot */
    uint32_t unused;
    struct journal_slot slots[SLOTS];
    struct journal_area areas[AREAS];
};

struct request_journal {
    int descriptor;
    struct journal_memory *memory;
    bool incomplete; /* the server before could not note everything */
    struct suspects *suspects;
};

/* ---- slots ---- */

/* The kernel counts in twos. */
static uint32_t home_of(uint64_t connection, uint64_t unique)
{
    return (uint32_t)((unique >> 1) + connection * 509u) % SLOTS;
}

static struct journal_slot *find(struct request_journal *journal, uint64_t connection,
                                 uint64_t unique)
{
    uint32_t home = home_of(connection, unique);
    for (uint32_t i = 0; i < PROBES; i++) {
        struct journal_slot *slot = &journal->memory->slots[(home + i) % SLOTS];
        if (atomic_load_explicit(&slot->unique, memory_order_acquire) == unique &&
            atomic_load_explicit(&slot->connection, memory_order_relaxed) == connection)
            return slot;
    }
    return NULL;
}

static struct journal_slot *claim(struct request_journal *journal, uint64_t connection,
                                  uint64_t unique)
{
    uint32_t home = home_of(connection, unique);
    for (uint32_t i = 0; i < PROBES; i++) {
        struct journal_slot *slot = &journal->memory->slots[(home + i) % SLOTS];
        uint32_t expected = SLOT_FREE;
        if (atomic_load_explicit(&slot->state, memory_order_relaxed) == SLOT_FREE &&
            atomic_compare_exchange_strong(&slot->state, &expected, SLOT_CLAIMED))
            return slot;
    }
    return NULL;
}

static void clear(struct journal_slot *slot)
{
    atomic_store_explicit(&slot->unique, 0, memory_order_relaxed);
    atomic_store_explicit(&slot->state, SLOT_FREE, memory_order_release);
}

static void fill(struct journal_slot *slot, const void *request, size_t length)
{
    slot->length = (uint16_t)length;
    memcpy(slot->request, request, length);
}

static uint64_t unique_of(const void *request)
{
    struct fuse_in_header header;
    memcpy(&header, request, sizeof header);
    return header.unique;
}

/* These have no answer. */
static bool is_answered(const void *request)
{
    struct fuse_in_header header;
    memcpy(&header, request, sizeof header);
    return header.opcode != FUSE_FORGET && header.opcode != FUSE_BATCH_FORGET &&
           header.opcode != FUSE_INTERRUPT;
}

static struct journal_slot *insert(struct request_journal *journal, uint64_t connection,
                                   const void *request, size_t length, enum slot_state state)
{
    uint64_t unique = unique_of(request) & ~FUSE_UNIQUE_RESEND;
    struct journal_slot *slot =
        length <= SLOT_REQUEST_MAX ? claim(journal, connection, unique) : NULL;
    if (!slot) {
        atomic_fetch_add(&journal->memory->unnoted, 1);
        return NULL;
    }
    fill(slot, request, length);
    slot->crashes = slot->kills = 0;
    slot->servers = 0;
    atomic_store_explicit(&slot->connection, connection, memory_order_relaxed);
    atomic_store_explicit(&slot->unique, unique, memory_order_release);
    atomic_store_explicit(&slot->state, state, memory_order_release);
    return slot;
}

/* An answer to FUSE_INTERRUPT has an odd number, a notification none. */
static bool is_numbered(uint64_t unique)
{
    return unique != 0 && (unique & 1) == 0;
}

static void forget_unnoted(struct request_journal *journal)
{
    uint32_t count = atomic_load(&journal->memory->unnoted);
    while (count > 0 && !atomic_compare_exchange_weak(&journal->memory->unnoted, &count, count - 1))
        continue;
}

/* ---- a request's way ---- */

static enum request_verdict judge(const struct journal_slot *slot)
{
    if (slot->crashes >= REQUEST_CRASHES_MAX || slot->kills >= REQUEST_KILLS_MAX)
        return REQUEST_GIVE_UP;
    if (slot->crashes + 1u >= REQUEST_CRASHES_MAX || slot->kills + 1u >= REQUEST_KILLS_MAX)
        return REQUEST_HOLD;
    return REQUEST_SERVE;
}

enum request_verdict request_journal_enter(struct request_journal *journal, uint64_t connection,
                                           const void *request, size_t length, bool again)
{
    if (!is_answered(request)) return REQUEST_SERVE;
    uint64_t unique = unique_of(request);
    struct journal_slot *slot = NULL;
    if (again || (unique & FUSE_UNIQUE_RESEND))
        slot = find(journal, connection, unique & ~FUSE_UNIQUE_RESEND);
    if (!slot) {
        insert(journal, connection, request, length, SLOT_SERVED);
        return REQUEST_SERVE;
    }
    if (length <= SLOT_REQUEST_MAX) fill(slot, request, length);
    enum request_verdict verdict = judge(slot);
    atomic_store_explicit(&slot->state, verdict == REQUEST_HOLD ? SLOT_HELD : SLOT_SERVED,
                          memory_order_release);
    return verdict;
}

void request_journal_leave(struct request_journal *journal, uint64_t connection, uint64_t unique)
{
    struct journal_slot *slot = find(journal, connection, unique & ~FUSE_UNIQUE_RESEND);
    if (slot)
        clear(slot);
    else if (is_numbered(unique))
        forget_unnoted(journal);
}

bool request_journal_has(struct request_journal *journal, uint64_t connection, uint64_t unique)
{
    return find(journal, connection, unique & ~FUSE_UNIQUE_RESEND) != NULL;
}

void request_journal_set_state(struct request_journal *journal, uint64_t connection,
                               uint64_t unique, enum slot_state from, enum slot_state to)
{
    struct journal_slot *slot = find(journal, connection, unique & ~FUSE_UNIQUE_RESEND);
    uint32_t expected = from;
    if (slot) atomic_compare_exchange_strong(&slot->state, &expected, to);
}

int request_journal_hold(struct request_journal *journal, uint64_t connection, const void *request,
                         size_t length, request_serve *serve, void *context)
{
    return suspects_add(journal->suspects, connection, request, length, serve, context);
}

void request_journal_drop(struct request_journal *journal, uint64_t connection)
{
    suspects_drop(journal->suspects, connection);
    for (uint32_t i = 0; i < SLOTS; i++) {
        struct journal_slot *slot = &journal->memory->slots[i];
        if (atomic_load(&slot->connection) == connection &&
            atomic_load(&slot->state) != SLOT_CLAIMED && atomic_load(&slot->unique) != 0)
            clear(slot);
    }
}

int request_journal_unanswered(struct request_journal *journal, uint64_t connection,
                               request_serve *serve, void *context)
{
    for (uint32_t i = 0; i < SLOTS; i++) {
        struct journal_slot *slot = &journal->memory->slots[i];
        uint8_t request[SLOT_REQUEST_MAX];
        if (atomic_load(&slot->state) != SLOT_AWAITED ||
            atomic_load(&slot->connection) != connection)
            continue;
        size_t length = slot->length;
        memcpy(request, slot->request, length);
        serve(context, request, length);
    }
    return journal->incomplete ? -1 : 0;
}

/* ---- areas ---- */

void *request_journal_take_area(struct request_journal *journal, uint64_t connection)
{
    for (uint32_t i = 0; i < AREAS; i++) {
        struct journal_area *area = &journal->memory->areas[i];
        uint32_t expected = 0;
        if (atomic_load_explicit(&area->taken, memory_order_relaxed) == 0 &&
            atomic_compare_exchange_strong(&area->taken, &expected, 1)) {
            atomic_store(&area->connection, connection);
            return area->request;
        }
    }
    return NULL;
}

void request_journal_return_area(void *area)
{
    struct journal_area *whole = area;
    if (!whole) return;
    memset(whole->request, 0, sizeof(struct fuse_in_header));
    atomic_store(&whole->taken, 0);
}

/* ---- taking over ---- */

static bool slot_makes_sense(const struct journal_slot *slot)
{
    struct fuse_in_header header;
    if (slot->length < sizeof header || slot->length > SLOT_REQUEST_MAX) return false;
    memcpy(&header, slot->request, sizeof header);
    return header.len == slot->length && slot->unique != 0 &&
           (header.unique & ~FUSE_UNIQUE_RESEND) == slot->unique;
}

static void count_death(struct journal_slot *slot, enum server_end end)
{
    if (end == SERVER_CRASHED && slot->crashes < UINT8_MAX) slot->crashes++;
    if (end == SERVER_KILLED && slot->kills < UINT8_MAX) slot->kills++;
}

/* A suspect that was being tried takes the blame alone. */
static enum slot_state state_to_blame(const struct journal_memory *memory)
{
    for (uint32_t i = 0; i < SLOTS; i++)
        if (atomic_load(&memory->slots[i].state) == SLOT_TRIED) return SLOT_TRIED;
    return SLOT_SERVED;
}

static void take_over_slot(struct journal_slot *slot, enum server_end end, enum slot_state blamed)
{
    uint32_t state = atomic_load(&slot->state);
    if (state == SLOT_SERVED || state == SLOT_HELD || state == SLOT_TRIED) {
        if (state == blamed) count_death(slot, end);
        slot->servers = 0;
    } else if (state != SLOT_AWAITED || ++slot->servers > AWAITED_SERVERS) {
        clear(slot);
        return;
    }
    if (slot_makes_sense(slot))
        atomic_store(&slot->state, SLOT_AWAITED);
    else
        clear(slot);
}

/* A request that the kernel had given to a thread, and that the thread had not entered yet. */
static void take_over_area(struct request_journal *journal, struct journal_area *area,
                           enum server_end end)
{
    struct fuse_in_header header;
    memcpy(&header, area->request, sizeof header);
    uint64_t connection = atomic_load(&area->connection);
    bool filled = atomic_load(&area->taken) && header.unique != 0 && is_answered(&header);
    if (filled && !request_journal_has(journal, connection, header.unique)) {
        if (header.len < sizeof header || header.len > SLOT_REQUEST_MAX) {
            journal->incomplete = true;
        } else {
            struct journal_slot *slot =
                insert(journal, connection, area->request, header.len, SLOT_AWAITED);
            if (slot) count_death(slot, end);
        }
    }
    memset(area->request, 0, sizeof header);
    atomic_store(&area->taken, 0);
}

static void take_over(struct request_journal *journal, enum server_end end)
{
    struct journal_memory *memory = journal->memory;
    enum slot_state blamed = state_to_blame(memory);
    journal->incomplete = atomic_load(&memory->unnoted) > 0;
    atomic_store(&memory->unnoted, 0);
    for (uint32_t i = 0; i < SLOTS; i++)
        take_over_slot(&memory->slots[i], end, blamed);
    for (uint32_t i = 0; i < AREAS; i++)
        take_over_area(journal, &memory->areas[i], end);
    journal->incomplete |= atomic_load(&memory->unnoted) > 0;
}

/* ---- start and end ---- */

/* Of "NAME:\tHEX", proc_pid_status(5), a mask of signals. */
static bool has_kill(const char *status, const char *name)
{
    const char *line = strstr(status, name);
    return line && (strtoull(line + strlen(name), NULL, 16) >> (SIGKILL - 1) & 1);
}

/* Whether who has the lock was killed, but still waits for something, such as a busy disk. */
static bool owner_was_killed(int descriptor)
{
    struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
    cleanup_buffer struct buffer text = { 0 };
    if (fcntl(descriptor, F_GETLK, &lock) < 0) return false;
    if (lock.l_type == F_UNLCK) return true;
    cleanup_free char *path = format_text("/proc/%d/status", (int)lock.l_pid);
    if (!path || file_read(path, 16384, &text, NULL) < 0) return false;
    if (buffer_append_u8(&text, 0) < 0) return false;
    const char *status = (const char *)text.data;
    return strstr(status, "\nState:\tZ") || has_kill(status, "\nSigPnd:\t") ||
           has_kill(status, "\nShdPnd:\t");
}

/* A lock that the kernel releases when the last thread of its process is gone, so that nobody takes
 * requests any more once it can be had. */
static int lock_memory(int descriptor, struct error **error)
{
    struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
    uint64_t begun = clock_ms();
    bool told = false;
    while (fcntl(descriptor, F_SETLK, &lock) < 0) {
        int number = errno;
        uint64_t waited = clock_ms() - begun;
        if (number != EAGAIN && number != EACCES && number != EINTR)
            return error_set_errno(error, number, "journal of requests: lock");
        if (waited >= KILLED_WAIT_MS ||
            (waited >= CLAIM_WAIT_MS && !owner_was_killed(descriptor))) {
            error_set(error, ERROR_UNREACHABLE,
                      "journal of requests: the server before this one does not end");
            return error_hint(error, "another sluiced needs a holder of its own: [holder] socket");
        }
        if (waited >= CLAIM_WAIT_MS && !told)
            log_warning("waiting for the end of the server before this one, which was killed");
        told = waited >= CLAIM_WAIT_MS;
        nanosleep(&(struct timespec){ .tv_nsec = told ? 20000000 : 1000000 }, NULL);
    }
    return 0;
}

static int map_memory(struct request_journal *journal, struct error **error)
{
    void *memory = mmap(NULL, sizeof *journal->memory, PROT_READ | PROT_WRITE, MAP_SHARED,
                        journal->descriptor, 0);
    if (memory == MAP_FAILED) {
        error_set_errno(error, errno, "journal of requests: map");
        return -1;
    }
    journal->memory = memory;
    journal->suspects = suspects_new(journal);
    return journal->suspects ? 0 : error_set_memory(error);
}

int request_journal_make(struct error **error)
{
    const uint64_t magic = JOURNAL_MAGIC;
    cleanup_close int memory = memfd_create("sluice-journal", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (memory < 0 || ftruncate(memory, sizeof(struct journal_memory)) < 0 ||
        pwrite(memory, &magic, sizeof magic, offsetof(struct journal_memory, magic)) < 0 ||
        fcntl(memory, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        return error_set_errno(error, errno, "journal of requests: make its memory");
    return take_descriptor(&memory);
}

/* Sealed, so that nobody can cut it off under the mapping. */
bool request_journal_fits(int memory)
{
    struct stat status;
    uint64_t magic;
    int seals = fcntl(memory, F_GET_SEALS);
    return seals >= 0 && (seals & F_SEAL_SHRINK) && fstat(memory, &status) == 0 &&
           status.st_size == sizeof(struct journal_memory) &&
           pread(memory, &magic, sizeof magic, offsetof(struct journal_memory, magic)) ==
               sizeof magic &&
           magic == JOURNAL_MAGIC;
}

static int use_memory(struct request_journal *journal, enum server_end end, struct error **error)
{
    if (!request_journal_fits(journal->descriptor))
        return error_set(error, ERROR_UNSUPPORTED,
                         "journal of requests: this is none of this version's");
    if (lock_memory(journal->descriptor, error) < 0 || map_memory(journal, error) < 0) return -1;
    take_over(journal, end);
    return 0;
}

int request_journal_open(struct request_journal **ret, int memory, enum server_end end,
                         struct error **error)
{
    cleanup_close int owned = memory;
    struct request_journal *journal = calloc(1, sizeof *journal);
    if (!journal) return error_set_memory(error);
    journal->descriptor = take_descriptor(&owned);
    if (use_memory(journal, end, error) < 0) {
        request_journal_free(journal);
        return -1;
    }
    *ret = journal;
    return 0;
}

void request_journal_free(struct request_journal *journal)
{
    if (!journal) return;
    suspects_free(journal->suspects);
    if (journal->memory) munmap(journal->memory, sizeof *journal->memory);
    if (journal->descriptor >= 0) close(journal->descriptor);
    free(journal);
}
