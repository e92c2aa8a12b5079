/* A process that is killed between any two system calls: what it had said to be done is there, what
 * it had not begun is not, and what lies between leaves nothing behind.
 *
 * SLUICE_KILLS: at how many places; 0 for all. */
#include "tests/unit/snapshot_fixture.h"

#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#include "tests/unit/lazy_always.h"

#define KILLS_USUAL 80

#define CHAIN_ID "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

/* Shared with the process that is killed. */
struct progress {
    volatile int begun, finished;
};

static struct progress *progress;
static struct snapshots snapshots;

static struct lazy_source source;

enum step {
    OPEN,
    PREPARE_A,
    COMMIT_ONE,
    PREPARE_B,
    VIEW,
    REMOVE_VIEW,
    PULL,
    PREPARE_C,
    REMOVE_C,
    REMOVE_PULLED,
    LABEL,
    COMMIT_TWO,
    CLEANUP,
    CLOSE,
    STEPS,
};

/* Between which steps a name is there. */
static const struct {
    const char *name;
    enum step made, gone;
} lives[] = {
    { "a", PREPARE_A, COMMIT_ONE },    { "one", COMMIT_ONE, STEPS },
    { "b", PREPARE_B, COMMIT_TWO },    { "v", VIEW, REMOVE_VIEW },
    { CHAIN_ID, PULL, REMOVE_PULLED }, { "c", PREPARE_C, REMOVE_C },
    { "two", COMMIT_TWO, STEPS },
};

static int pull(void)
{
    struct labels labels =
        labels_of(LABEL_SNAPSHOT_REF "=" CHAIN_ID, "containerd.io/snapshot/cri.image-ref=i",
                  "containerd.io/snapshot/cri.layer-digest=" CHAIN_ID, NULL);
    int result = try_prepare(&snapshots, "pull", "one", &labels);
    labels_free(&labels);
    return result == ERROR_EXISTS ? 0 : -1;
}

static int set_label(void)
{
    struct snapshot_info info = { .name = "one", .labels = labels_of("label=1", NULL) }, ret;
    if (snapshotter_update(snapshots.snapshotter, &info, NULL, 0, &ret, NULL) < 0) return -1;
    snapshot_info_free(&ret);
    labels_free(&info.labels);
    return 0;
}

static int do_step(enum step step)
{
    struct label label = { LABEL_SNAPSHOT_REF, CHAIN_ID };
    const struct labels reference = { &label, 1 };
    switch (step) {
    case OPEN:
        return snapshotter_open(&snapshots.snapshotter, &snapshots.options, NULL);
    case PREPARE_A:
        return try_prepare(&snapshots, "a", "", &no_labels);
    case COMMIT_ONE:
        return try_commit(&snapshots, "one", "a", "", &reference);
    case PREPARE_B:
        return try_prepare(&snapshots, "b", "one", &no_labels);
    case VIEW:
        return try_view(&snapshots, "v", "one");
    case REMOVE_VIEW:
        return try_remove(&snapshots, "v");
    case PULL:
        return pull();
    case PREPARE_C:
        return try_prepare(&snapshots, "c", CHAIN_ID, &no_labels);
    case REMOVE_C:
        return try_remove(&snapshots, "c");
    case REMOVE_PULLED:
        return try_remove(&snapshots, CHAIN_ID);
    case LABEL:
        return set_label();
    case COMMIT_TWO:
        return try_commit(&snapshots, "two", "b", "", &no_labels);
    case CLEANUP:
        return snapshotter_cleanup(snapshots.snapshotter, NULL);
    default:
        snapshots_close(&snapshots);
        return 0;
    }
}

static void do_all(void)
{
    ptrace(PTRACE_TRACEME, 0, NULL, NULL);
    raise(SIGSTOP);
    for (int i = 0; i < STEPS; i++) {
        progress->begun = i + 1;
        if (do_step((enum step)i) != 0) _exit(1);
        progress->finished = i + 1;
    }
    _exit(0);
}

/* Kills the process at its `place`th stop, or lets it end. How many stops there were; -1 where
 * nobody may be traced. */
static long run_and_kill(long place)
{
    int status;
    long stops = 0;
    *progress = (struct progress){ 0 };
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) do_all();
    assert_int_equal(waitpid(child, &status, 0), child);
    if (ptrace(PTRACE_SETOPTIONS, child, NULL, PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD) < 0) {
        kill(child, SIGKILL);
        waitpid(child, &status, 0);
        return -1;
    }
    int signal = 0;
    while (ptrace(PTRACE_SYSCALL, child, NULL, signal) == 0) {
        assert_int_equal(waitpid(child, &status, 0), child);
        if (!WIFSTOPPED(status)) break;
        signal = WSTOPSIG(status);
        if (signal != (SIGTRAP | 0x80)) continue;
        signal = 0;
        if (++stops == place) kill(child, SIGKILL);
    }
    while (!WIFEXITED(status) && !WIFSIGNALED(status))
        assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFEXITED(status)) assert_int_equal(WEXITSTATUS(status), 0);
    return stops;
}

/* 1: it must be there; 0: it must not; -1: either. */
static int expected(enum step made, enum step gone)
{
    int begun = progress->begun, finished = progress->finished;
    if (begun <= (int)made || finished > (int)gone) return 0;
    return finished > (int)made && begun <= (int)gone ? 1 : -1;
}

/* Of each snapshot's own directories that its mounts name. */
static void assert_directories(const char *name)
{
    struct mount_list mounts = mounts_of(&snapshots, name);
    const struct mount_entry *entry = &mounts.entries[0];
    if (*entry->source == '/') assert_int_equal(access(entry->source, F_OK), 0);
    for (size_t i = 0; i < entry->option_count; i++) {
        const char *value = strchr(entry->options[i], '/');
        if (value) assert_int_equal(access(value, F_OK), 0);
    }
    mount_list_free(&mounts);
}

static void check_state(void)
{
    int ordinary = 0;
    snapshots_open(&snapshots);
    for (size_t i = 0; i < sizeof lives / sizeof *lives; i++) {
        int there = try_stat(&snapshots, lives[i].name) == 0;
        int should = expected(lives[i].made, lives[i].gone);
        if (should >= 0 && there != should)
            fail_msg("after %d of %d steps, '%s' is %s", progress->finished, progress->begun,
                     lives[i].name, there ? "there" : "not there");
        if (there && strcmp(lives[i].name, CHAIN_ID) != 0) {
            ordinary++;
            if (strlen(lives[i].name) == 1) assert_directories(lives[i].name);
        }
    }
    if (expected(LABEL, STEPS) == 1) {
        struct snapshot_info info = stat_of(&snapshots, "one");
        assert_string_equal(labels_get(&info.labels, "label"), "1");
        snapshot_info_free(&info);
    }
    assert_int_equal(count_directories(&snapshots, false), ordinary);
    assert_int_equal(snapshotter_cleanup(snapshots.snapshotter, NULL), 0);
    assert_int_equal(count_directories(&snapshots, true), 0);
    snapshots_close(&snapshots);
}

static void begin_anew(void)
{
    snapshots = (struct snapshots){ .directory = temporary_directory_make() };
    snapshots.root = format_text("%s/state", snapshots.directory);
    source = lazy_always(snapshots.directory);
    snapshots.options = (struct snapshotter_options){ .root = snapshots.root, .lazy = &source };
}

static void end(void)
{
    temporary_directory_remove(snapshots.directory);
    free(snapshots.root);
}

static void test_killed_anywhere(void **state)
{
    (void)state;
    const char *asked = getenv("SLUICE_KILLS");
    long kills = asked ? strtol(asked, NULL, 10) : KILLS_USUAL;
    begin_anew();
    long stops = run_and_kill(0);
    if (stops >= 0) check_state();
    end();
    if (stops < 0) skip();
    if (kills <= 0 || kills > stops) kills = stops;
    for (long i = 0; i < kills; i++) {
        begin_anew();
        run_and_kill(1 + i * stops / kills);
        check_state();
        end();
    }
}

int main(void)
{
    progress =
        mmap(NULL, sizeof *progress, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_killed_anywhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
