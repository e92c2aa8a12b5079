/* What runs in the containers of tests whose images hold nothing else: a static program that is a
 * pod's pause, and that does small things to files when it is asked. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static void end(int number)
{
    (void)number;
    _exit(0);
}

_Noreturn static void wait_for_the_end(void)
{
    struct sigaction action = { .sa_handler = end };
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    signal(SIGCHLD, SIG_IGN); /* the kernel reaps what a pod's containers leave to process 1 */
    for (;;) {
        pause();
    }
}

static int complain(const char *what)
{
    perror(what);
    return 1;
}

static int show(const char *path)
{
    char block[1 << 16];
    int file = open(path, O_RDONLY);
    if (file < 0) {
        return complain(path);
    }
    ssize_t count;
    while ((count = read(file, block, sizeof(block))) > 0) {
        fwrite(block, 1, (size_t)count, stdout);
    }
    return count < 0 ? complain(path) : 0;
}

static int write_file(const char *path, const char *text)
{
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (file < 0 || write(file, text, strlen(text)) != (ssize_t)strlen(text)) {
        return complain(path);
    }
    return 0;
}

static int run(int count, char **words)
{
    const char *what = count > 1 ? words[1] : "";
    if (strcmp(what, "pause") == 0) {
        wait_for_the_end();
    }
    if (strcmp(what, "print") == 0 && count == 3) {
        return puts(words[2]) < 0;
    }
    if (strcmp(what, "show") == 0 && count == 3) {
        return show(words[2]);
    }
    if (strcmp(what, "write") == 0 && count == 4) {
        return write_file(words[2], words[3]);
    }
    if (strcmp(what, "remove") == 0 && count == 3) {
        return unlink(words[2]) == 0 ? 0 : complain(words[2]);
    }
    fprintf(stderr, "inside: pause | print TEXT | show PATH | write PATH TEXT | remove PATH\n");
    return 2;
}

int main(int count, char **words)
{
    int status = run(count, words);
    return fflush(stdout) == 0 ? status : 1;
}
