/* Start-up: how long `PROGRAM ARGS...` takes from fork to exit, output thrown away.
 *     bench_start NAME PROGRAM [ARG]... */
#include "bench.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

static void start(void *arg)
{
    char **argv = arg;
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) {
        int null = open("/dev/null", O_WRONLY);
        dup2(null, STDOUT_FILENO);
        execv(argv[0], argv);
        _exit(127);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0) {
        fprintf(stderr, "bench_start: %s failed (status %d)\n", argv[0], status);
        exit(1);
    }
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: bench_start NAME PROGRAM [ARG]...\n");
        return 2;
    }
    double best, median;
    bench_time(&best, &median, start, argv + 2);
    bench_line(argv[1], NULL, best * 1e3, "ms", best, median);
    return 0;
}
