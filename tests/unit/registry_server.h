/* Starts the servers that the registry client's tests talk to. */
#ifndef SLUICE_TESTS_REGISTRY_SERVER_H
#define SLUICE_TESTS_REGISTRY_SERVER_H

#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"

struct server {
    pid_t pid;
    int input;    /* its standard input */
    FILE *output; /* its standard output */
};

/* The server's standard error goes to the file `errors`; NULL: to the test's. */
static inline struct server server_start(char *const arguments[], const char *errors)
{
    struct server server = { .pid = -1 };
    int input[2], output[2];
    if (pipe2(input, O_CLOEXEC) < 0 || pipe2(output, O_CLOEXEC) < 0) abort();
    server.pid = fork();
    if (server.pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* also when the test crashes */
        dup2(input[0], STDIN_FILENO);
        dup2(output[1], STDOUT_FILENO);
        if (errors && !freopen(errors, "w", stderr)) _exit(126);
        execv(arguments[0], arguments);
        _exit(127);
    }
    close(input[0]);
    close(output[1]);
    server.input = input[1];
    server.output = fdopen(output[0], "r");
    return server;
}

static inline void server_stop(struct server *server)
{
    if (server->pid <= 0) return;
    kill(server->pid, SIGKILL);
    waitpid(server->pid, NULL, 0);
    close(server->input);
    fclose(server->output);
    server->pid = -1;
}

/* The bytes of the blobs that registry_faults.py serves. */
static inline uint8_t *pattern_new(size_t length)
{
    uint8_t *bytes = malloc(length);
    for (size_t i = 0; i < length; i++) {
        size_t j = i % 65537;
        bytes[i] = (uint8_t)(j * 7 + j / 256);
    }
    return bytes;
}

#endif
