/* A process that has given up what it does not need: what it cannot do, and what it still can. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/confine.h"
#include "base/file.h"
#include "base/thread.h"
#include "tests/unit/temporary_directory.h"

struct places {
    char *ours, *other;
};

/* Runs `work` in a child that is confined to `ours`; it returns what it found wrong, or 0. */
static int in_confinement(const struct places *places,
                          int (*work)(const struct places *places, const struct confinement *))
{
    pid_t child = fork();
    if (child == 0) {
        struct confinement confinement;
        const char *directories[] = { places->ours };
        confine_process(directories, 1, &confinement);
        _exit(work(places, &confinement));
    }
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status)) return -1;
    return WEXITSTATUS(status);
}

static int set_up(void **state)
{
    struct places *places = calloc(1, sizeof *places);
    if (!places) return -1;
    places->ours = temporary_directory_make();
    places->other = temporary_directory_make();
    *state = places;
    return 0;
}

static int tear_down(void **state)
{
    struct places *places = *state;
    temporary_directory_remove(places->ours);
    temporary_directory_remove(places->other);
    free(places);
    return 0;
}

static int make_file(const char *directory)
{
    char *path = format_text("%s/file", directory);
    int descriptor = path ? open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600) : -1;
    free(path);
    if (descriptor >= 0) close(descriptor);
    return descriptor >= 0;
}

/* What is not in force on this kernel cannot be tried. */
static int try_what_is_forbidden(const struct places *places, const struct confinement *confinement)
{
    char *const arguments[] = { (char *)"true", NULL };
    if (!confinement->capabilities || !confinement->no_new_privileges) return 1;
    if (mount("none", places->ours, "tmpfs", 0, NULL) == 0 || errno != EPERM) return 2;
    if (chown(places->ours, 12345, 12345) == 0) return 3;
    if (confinement->system_calls || confinement->files) {
        execv("/bin/true", arguments);
        if (errno != EPERM && errno != EACCES) return 4;
    }
    if (confinement->system_calls && unshare(CLONE_NEWUSER) == 0) return 5;
    if (confinement->files && make_file(places->other)) return 6;
    return 0;
}

static void test_what_is_forbidden(void **state)
{
    assert_int_equal(in_confinement(*state, try_what_is_forbidden), 0);
}

static void *set_flag(void *context)
{
    *(int *)context = 1;
    return NULL;
}

static int try_what_is_needed(const struct places *places, const struct confinement *confinement)
{
    (void)confinement;
    pthread_t thread;
    int ran = 0;
    if (thread_start(&thread, "test", set_flag, &ran, NULL) < 0) return 1;
    pthread_join(thread, NULL);
    if (!ran) return 2;
    if (!make_file(places->ours)) return 3;
    char *from = format_text("%s/file", places->ours);
    char *below = format_text("%s/below", places->ours);
    char *to = format_text("%s/below/file", places->ours);
    /* As files of the cache do. */
    if (!from || !below || !to || mkdir(below, 0700) < 0 || rename(from, to) < 0) return 4;
    if (truncate(to, 0) < 0 || unlink(to) < 0 || rmdir(below) < 0) return 5;
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    int connection = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (null < 0 || connection < 0 || access("/etc/passwd", R_OK) < 0) return 6;
    free(from);
    free(below);
    free(to);
    return 0;
}

static void test_what_still_works(void **state)
{
    assert_int_equal(in_confinement(*state, try_what_is_needed), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_what_is_forbidden, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_what_still_works, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
