/* Tests with real ranks: processes of this program, joined over loopback. */
#ifndef NS_DIST_TESTING_H
#define NS_DIST_TESTING_H

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/testing.h"
#include "dist/comm.h"

/* In a rank: say what is wrong and end with exit code 1. */
#define RANK_CHECK(cond)                                                                   \
    do {                                                                                   \
        if (!(cond)) {                                                                     \
            fprintf(stderr, "rank check failed: %s (%s:%d)\n", #cond, __FILE__, __LINE__); \
            _exit(1);                                                                      \
        }                                                                                  \
    } while (0)
#define RANK_OK(call, err)                                                                 \
    do {                                                                                   \
        if ((call) != NS_OK) {                                                             \
            char text_[2048];                                                              \
            fprintf(stderr, "%s: %s\n", #call, ns_error_text((err), text_, sizeof text_)); \
            _exit(1);                                                                      \
        }                                                                                  \
    } while (0)

/* A socket that listens on a port of its own: nobody else can take it before rank 0 does. */
static inline int ns_test_listen(int *port)
{
    struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)*port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    int s = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (s < 0 || bind(s, (struct sockaddr *)&a, sizeof a) != 0 || listen(s, 64) != 0 ||
        getsockname(s, (struct sockaddr *)&a, &n) != 0)
        return -1;
    *port = ntohs(a.sin_port);
    return s;
}

typedef int (*ns_rank_fn)(ns_world_options *o); /* runs one rank; its result is the exit code */

/* Starts n ranks; out[r] = exit code, or 1000 + signal. */
static inline void ns_test_run_ranks(int n, ns_rank_fn fn, int *out)
{
    pid_t pid[64];
    int port = 0, listener = ns_test_listen(&port);
    if (listener < 0) exit(1);
    fflush(NULL);
    for (int r = 0; r < n; r++) {
        pid[r] = fork();
        if (pid[r] == 0) {
            ns_world_options o = {
                .rank = r, .size = n, .local_rank = r, .local_size = n, .host = "127.0.0.1", .port = port};
            if (r == 0)
                o.listener = listener;
            else
                close(listener);
            _exit(fn(&o));
        }
    }
    close(listener);
    for (int r = 0; r < n; r++) {
        int st = 0;
        waitpid(pid[r], &st, 0);
        out[r] = WIFEXITED(st) ? WEXITSTATUS(st) : 1000 + WTERMSIG(st);
    }
}

#endif
