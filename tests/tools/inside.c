/* What runs in the containers of tests whose images hold nothing else: a static program that is a
 * pod's pause, and that does small things to files when it is asked. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
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

/* ---- checksums of a tree ---- */

/* As zlib's crc32(). */
static uint32_t add_to_sum(uint32_t sum, const char *bytes, size_t length)
{
    sum = ~sum;
    for (size_t i = 0; i < length; i++) {
        sum ^= (unsigned char)bytes[i];
        for (int bit = 0; bit < 8; bit++) {
            sum = sum >> 1 ^ (sum & 1 ? 0xedb88320 : 0);
        }
    }
    return ~sum;
}

/* A line for the file: its sum and its path. */
static int sum_file(const char *path, FILE *to)
{
    char block[1 << 16];
    uint32_t sum = 0;
    ssize_t count;
    int file = open(path, O_RDONLY);
    if (file < 0) {
        return complain(path);
    }
    while ((count = read(file, block, sizeof(block))) > 0) {
        sum = add_to_sum(sum, block, (size_t)count);
    }
    close(file);
    return count < 0 ? complain(path) : fprintf(to, "%08x %s\n", (unsigned)sum, path) < 0;
}

/* In the order of names. */
static int sum_tree(const char *path, FILE *to)
{
    struct dirent **entries;
    int failed = 0, count = scandir(path, &entries, NULL, alphasort);
    if (count < 0) {
        return complain(path);
    }
    for (int i = 0; i < count; i++) {
        char *name = entries[i]->d_name, *below = NULL;
        if (strcmp(name, ".") != 0 && strcmp(name, "..") != 0) {
            failed |= asprintf(&below, "%s/%s", path, name) < 0 ||
                      (entries[i]->d_type == DT_DIR ? sum_tree(below, to) : sum_file(below, to));
            free(below);
        }
        free(entries[i]);
    }
    free(entries);
    return failed;
}

static volatile sig_atomic_t is_over;

static void let_end(int number)
{
    (void)number;
    is_over = 1;
}

/* Fresh memory, or NULL when something could not be read. */
static char *sums_of(const char *path)
{
    char *text = NULL;
    size_t length;
    FILE *to = open_memstream(&text, &length);
    int failed = sum_tree(path, to);
    return fclose(to) == 0 && !failed ? text : NULL;
}

/* The sums, then the same again and again until it is told to end, then how often they were. */
static int watch(const char *path)
{
    struct sigaction action = { .sa_handler = let_end, .sa_flags = SA_RESTART };
    sigaction(SIGTERM, &action, NULL);
    char *first = sums_of(path), *next;
    int times = 0;
    if (!first || fputs(first, stdout) < 0 || fflush(stdout) != 0) {
        return 1;
    }
    for (; !is_over; times++) {
        next = sums_of(path);
        if (!next || strcmp(first, next) != 0) {
            fprintf(stderr, "%s: after %d times it is\n%s", path, times, next ? next : "not read");
            return 1;
        }
        free(next);
    }
    free(first);
    return printf("%d times\n", times) < 0;
}

static int owner(const char *path)
{
    struct stat status;
    if (lstat(path, &status) < 0) {
        return complain(path);
    }
    return printf("%u:%u\n", status.st_uid, status.st_gid) < 0;
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
    if (strcmp(what, "owner") == 0 && count == 3) {
        return owner(words[2]);
    }
    if (strcmp(what, "remove") == 0 && count == 3) {
        return unlink(words[2]) == 0 ? 0 : complain(words[2]);
    }
    if (strcmp(what, "sum") == 0 && count == 3) {
        return sum_tree(words[2], stdout);
    }
    if (strcmp(what, "hold") == 0 && count == 3) { /* the sums, and goes on as a pause */
        if (sum_tree(words[2], stdout) != 0 || fflush(stdout) != 0) {
            return 1;
        }
        wait_for_the_end();
    }
    if (strcmp(what, "watch") == 0 && count == 3) {
        return watch(words[2]);
    }
    fprintf(stderr,
            "inside: pause | print TEXT | show PATH | owner PATH | write PATH TEXT | remove PATH |"
            " sum DIR | hold DIR | watch DIR\n");
    return 2;
}

int main(int count, char **words)
{
    int status = run(count, words);
    return fflush(stdout) == 0 ? status : 1;
}
