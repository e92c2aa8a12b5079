/* What a service manager is told, and what it keeps. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "snapshotter/service_notify.h"
#include "tests/unit/temporary_directory.h"

struct manager {
    char *directory;
    int link;
};

static int set_up(void **state)
{
    struct manager *manager = calloc(1, sizeof *manager);
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    manager->directory = temporary_directory_make();
    snprintf(address.sun_path, sizeof address.sun_path, "%s/notify", manager->directory);
    manager->link = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_int_equal(bind(manager->link, (struct sockaddr *)&address, sizeof address), 0);
    setenv("NOTIFY_SOCKET", address.sun_path, 1);
    *state = manager;
    return 0;
}

static int tear_down(void **state)
{
    struct manager *manager = *state;
    unsetenv("NOTIFY_SOCKET");
    close(manager->link);
    temporary_directory_remove(manager->directory);
    free(manager);
    return 0;
}

/* The descriptor that came with it, or -1. */
static int expect(const struct manager *manager, const char *text)
{
    char found[200] = "";
    int descriptor = -1;
    _Alignas(struct cmsghdr) char room[CMSG_SPACE(sizeof descriptor)];
    struct iovec vector = { found, sizeof found - 1 };
    struct msghdr message = {
        .msg_iov = &vector, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room
    };
    assert_true(recvmsg(manager->link, &message, MSG_CMSG_CLOEXEC) > 0);
    assert_string_equal(found, text);
    const struct cmsghdr *control = CMSG_FIRSTHDR(&message);
    if (control) memcpy(&descriptor, CMSG_DATA(control), sizeof descriptor);
    return descriptor;
}

static void expect_same_file(int left, int right)
{
    struct stat one, other;
    assert_int_equal(fstat(left, &one), 0);
    assert_int_equal(fstat(right, &other), 0);
    assert_true(one.st_ino == other.st_ino && one.st_dev == other.st_dev);
}

static void test_telling_and_keeping(void **state)
{
    const struct manager *manager = *state;
    service_notify("READY=1");
    assert_int_equal(expect(manager, "READY=1"), -1);
    assert_true(service_keep("name-1", manager->link));
    int kept = expect(manager, "FDSTORE=1\nFDNAME=name-1");
    expect_same_file(kept, manager->link);
    close(kept);
    unsetenv("NOTIFY_SOCKET");
    assert_false(service_keep("name-1", manager->link));
    setenv("NOTIFY_SOCKET", "/nonexistent/socket", 1);
    assert_false(service_keep("name-1", manager->link));
}

/* In a process of its own, whose first descriptors are those that were kept. */
static int child(const struct manager *manager, const char *name, const char *for_process)
{
    int pipes[2];
    int link = fcntl(manager->link, F_DUPFD, 50);
    dup2(link, 3);
    if (pipe(pipes) < 0) return 1;
    dup2(pipes[0], 4);
    char text[24];
    snprintf(text, sizeof text, "%d", (int)getpid());
    setenv("LISTEN_PID", for_process ? for_process : text, 1);
    setenv("LISTEN_FDS", "2", 1);
    setenv("LISTEN_FDNAMES", "old:new", 1);
    int found = service_kept(name);
    if (getenv("LISTEN_FDS")) return 99;
    if (found >= 0 && !(fcntl(found, F_GETFD) & FD_CLOEXEC)) return 98;
    return found + 1;
}

static int kept(const struct manager *manager, const char *name, const char *for_process)
{
    int status;
    pid_t process = fork();
    if (process == 0) _exit(child(manager, name, for_process));
    assert_int_equal(waitpid(process, &status, 0), process);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status) - 1;
}

static void test_what_was_kept(void **state)
{
    const struct manager *manager = *state;
    assert_int_equal(kept(manager, "new", NULL), 4);
    expect(manager, "FDSTOREREMOVE=1\nFDNAME=old");
    assert_int_equal(kept(manager, NULL, NULL), -1);
    expect(manager, "FDSTOREREMOVE=1\nFDNAME=old");
    expect(manager, "FDSTOREREMOVE=1\nFDNAME=new");
    assert_int_equal(kept(manager, "new", "1"), -1);
    assert_int_equal(recv(manager->link, &(char){ 0 }, 1, 0), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_telling_and_keeping, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_what_was_kept, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
