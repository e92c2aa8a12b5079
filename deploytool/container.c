#include "deploytool/container.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "deploytool/container-internal.h"

/* Between asking the program to end and ending it. */
#define GRACE_MS 10000

struct container {
    const struct container_options *options;
    const char *program; /* the runtime */
    char *bundle, *state, *name;
    pid_t runtime;
};

/* They take the same commands. runc is where containerd is; crun does without cgroups. */
static const char *const runtimes[] = { "runc", "crun" };
#define RUNTIME_COUNT (sizeof runtimes / sizeof *runtimes)

/* ---- the runtime's commands ---- */

/* In the child; does not return. */
static void execute(const char *const *arguments, bool output_to_error)
{
    sigset_t none;
    /* container_remove() finds what it has begun. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    if (output_to_error) dup2(STDERR_FILENO, STDOUT_FILENO);
    execvp(arguments[0], (char *const *)arguments);
    _exit(127);
}

static pid_t start(const char *const *arguments, bool output_to_error)
{
    pid_t child = fork();
    if (child == 0) execute(arguments, output_to_error);
    return child;
}

static int wait_for(pid_t child)
{
    int status;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR) return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int run_quietly(const char *const *arguments)
{
    pid_t child = fork();
    if (child == 0) {
        /* It says what is not there any more. */
        if (!freopen("/dev/null", "w", stderr)) _exit(127);
        execute(arguments, true);
    }
    return child < 0 ? -1 : wait_for(child);
}

static void send_signal(const struct container *container, const char *number)
{
    const char *const arguments[] = {
        container->program, "--root", container->state, "kill", container->name, number, NULL
    };
    run_quietly(arguments);
}

static void remove_one(const char *program, const char *state, const char *name)
{
    const char *const arguments[] = { program, "--root", state, "delete", "--force", name, NULL };
    run_quietly(arguments);
}

/* NULL: there is none. */
static const char *find_runtime(void)
{
    for (size_t i = 0; i < RUNTIME_COUNT; i++) {
        const char *const arguments[] = { runtimes[i], "--version", NULL };
        if (run_quietly(arguments) == 0) return runtimes[i];
    }
    return NULL;
}

int container_check(struct error **error)
{
    if (find_runtime()) return 0;
    error_set(error, ERROR_NOT_FOUND,
              "neither runc nor crun is there to run a program in an image");
    return error_hint(error, "install one, or record on a node: sluice mount --record");
}

/* ---- the program's life ---- */

sigset_t container_end_signals(void)
{
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGHUP);
    sigaddset(&signals, SIGQUIT);
    return signals;
}

/* Waits for the end, asking for it when the time is over or somebody asks us. */
static void attend(struct container *container, const sigset_t *signals,
                   struct container_result *ret)
{
    uint64_t started = clock_ms(), asked = 0;
    uint64_t timeout = container->options->timeout_seconds * UINT64_C(1000);
    int status;
    while (waitpid(container->runtime, &status, WNOHANG) == 0) {
        struct timespec second = { .tv_sec = 1 };
        int number = sigtimedwait(signals, NULL, &second);
        bool interrupted = number > 0 && number != SIGCHLD;
        bool over = timeout && clock_ms() - started >= timeout;
        if (!asked && (interrupted || over)) {
            ret->interrupted = interrupted;
            ret->timed_out = !interrupted;
            asked = clock_ms();
            send_signal(container, "TERM");
        } else if (asked && (interrupted || clock_ms() - asked >= GRACE_MS)) {
            send_signal(container, "KILL");
        }
    }
    ret->exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* crun can do without a cgroup of its own, which not every machine lets it make. */
static size_t global_arguments(const struct container *container, const char *ret[4])
{
    size_t count = 0;
    ret[count++] = container->program;
    ret[count++] = "--root";
    ret[count++] = container->state;
    if (strcmp(container->program, "crun") == 0) ret[count++] = "--cgroup-manager=disabled";
    return count;
}

static int run(struct container *container, struct container_result *ret, struct error **error)
{
    const char *arguments[9] = { NULL };
    size_t count = global_arguments(container, arguments);
    arguments[count++] = "run";
    arguments[count++] = "--bundle";
    arguments[count++] = container->bundle;
    arguments[count] = container->name;
    sigset_t signals = container_end_signals(), before;
    sigaddset(&signals, SIGCHLD);
    sigprocmask(SIG_BLOCK, &signals, &before);
    container->runtime = start(arguments, container->options->output_to_error);
    int number = errno;
    if (container->runtime > 0) attend(container, &signals, ret);
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (container->runtime < 0)
        return error_set_errno(error, number, "start %s", container->program);
    remove_one(container->program, container->state, container->name);
    return 0;
}

int container_run(const struct container_options *options, struct container_result *ret,
                  struct error **error)
{
    struct container container = { .options = options, .program = find_runtime() };
    *ret = (struct container_result){ 0 };
    if (!container.program) return container_check(error);
    cleanup_free char *bundle = format_text("%s/bundle", options->directory);
    cleanup_free char *state = format_text("%s/state", options->directory);
    cleanup_free char *config = format_text("%s/bundle/config.json", options->directory);
    cleanup_free char *name = format_text("sluice-profile-%ld", (long)getpid());
    if (!bundle || !state || !config || !name) return error_set_memory(error);
    container.bundle = bundle;
    container.state = state;
    container.name = name;
    if (directory_make(options->directory, 0755, error) < 0 ||
        directory_make(bundle, 0700, error) < 0 || directory_make(state, 0700, error) < 0 ||
        container_config_write(options, config, error) < 0)
        return -1;
    log_info("%s runs '%s'", container.program, options->process->arguments[0]);
    return run(&container, ret, error);
}

/* Runtimes have a directory for each container that there is. */
void container_remove(const char *directory)
{
    cleanup_free char *state = format_text("%s/state", directory);
    DIR *listing = state ? opendir(state) : NULL;
    const struct dirent *entry;
    const char *program = listing ? find_runtime() : NULL;
    while (program && (entry = readdir(listing)))
        if (entry->d_name[0] != '.') remove_one(program, state, entry->d_name);
    if (listing) closedir(listing);
}
