/* Sockets and text lines under them. All sockets are non-blocking and closed on exec. */
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "dist/world_priv.h"

static int ms_left(double until)
{
    double left = (until - ns_time_now()) * 1000;
    return left <= 0 ? 0 : left > 60000 ? 60000 : (int)left + 1;
}

static void tune(int fd)
{
    int one = 1;
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static ns_status resolve(const char *host, int port, int passive, struct addrinfo **out, ns_error *err)
{
    char service[16];
    snprintf(service, sizeof service, "%d", port);
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = passive ? AI_PASSIVE : 0};
    int rc = getaddrinfo(host, service, &hints, out);
    NS_FAIL_IF(rc != 0, NS_ERR_DEVICE, "cannot find the address of '%s' (%s): is the name of rank 0's machine right?",
               host ? host : "*", gai_strerror(rc));
    return NS_OK;
}

static int is_loopback(const struct addrinfo *a)
{
    if (a->ai_family == AF_INET)
        return (ntohl(((const struct sockaddr_in *)(const void *)a->ai_addr)->sin_addr.s_addr) >> 24) == 127;
    return a->ai_family == AF_INET6 &&
           IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)a->ai_addr)->sin6_addr);
}

ns_status dist_listen(const char *host, int *port, int *fd, ns_error *err)
{
    struct addrinfo *a = NULL;
    ns_status st = NS_OK;
    *fd = -1;
    NS_TRY(resolve(host, *port, 0, &a, err), "%s", "listen");
    if (!is_loopback(a)) {
        freeaddrinfo(a);
        NS_TRY(resolve(NULL, *port, 1, &a, err), "%s", "listen");
    }
    int s = socket(a->ai_family, SOCK_STREAM, 0), one = 1;
    if (s >= 0) {
        tune(s);
        setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    }
    NS_BAIL_IF(st, s < 0 || bind(s, a->ai_addr, a->ai_addrlen) != 0 || listen(s, 1024) != 0, NS_ERR_DEVICE,
               "rank cannot listen on port %d of %s: %s%s", *port, host, strerror(errno),
               errno == EADDRINUSE ? "; another run uses it: set MASTER_PORT to a free one" : "");
    struct sockaddr_storage got;
    socklen_t n = sizeof got;
    getsockname(s, (struct sockaddr *)&got, &n);
    *port = ntohs(got.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)(void *)&got)->sin6_port
                                            : ((struct sockaddr_in *)(void *)&got)->sin_port);
    *fd = s;
    s = -1;
done:
    if (s >= 0) close(s);
    freeaddrinfo(a);
    return st;
}

int dist_port(uint64_t run, int n)
{
    uint64_t x = run + (uint64_t)n * 0x9e3779b97f4a7c15u; /* splitmix64 */
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return 20000 + (int)((x ^ (x >> 31)) % 12000u);
}

ns_status dist_take_listener(int fd, ns_error *err)
{
    int listens = 0;
    socklen_t n = sizeof listens;
    NS_FAIL_IF(getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &n) != 0 || !listens, NS_ERR_CONFIG,
               "NS_RENDEZVOUS_FD is %d, which is no listening socket: it is for ranks that ns starts itself", fd);
    tune(fd);
    return NS_OK;
}

ns_status dist_accept(int listener, double until, int *fd, ns_error *err)
{
    *fd = -1;
    for (;;) {
        int s = accept(listener, NULL, NULL);
        if (s >= 0) {
            tune(s);
            *fd = s;
            return NS_OK;
        }
        NS_FAIL_IF(errno != EAGAIN && errno != EINTR && errno != ECONNABORTED, NS_ERR_DEVICE,
                   "accepting a rank failed: %s", strerror(errno));
        if (ns_time_now() >= until) return NS_OK;
        struct pollfd p = {.fd = listener, .events = POLLIN};
        poll(&p, 1, ms_left(until));
    }
}

static int try_connect(const struct addrinfo *a, double until)
{
    int s = socket(a->ai_family, SOCK_STREAM, 0), e = 0;
    if (s < 0) return -1;
    tune(s);
    socklen_t n = sizeof e;
    if (connect(s, a->ai_addr, a->ai_addrlen) != 0) {
        struct pollfd p = {.fd = s, .events = POLLOUT};
        if (errno != EINPROGRESS || poll(&p, 1, ms_left(until)) != 1 ||
            getsockopt(s, SOL_SOCKET, SO_ERROR, &e, &n) != 0 || e != 0) {
            if (e) errno = e;
            close(s);
            return -1;
        }
    }
    return s;
}

static ns_status connect_to(const char *host, int port, double until, int again, int *fd, ns_error *err)
{
    struct addrinfo *list = NULL;
    int why = 0;
    NS_TRY(resolve(host, port, 0, &list, err), "%s", "connect");
    *fd = -1;
    do { /* rank 0 may start last: a refusal is not an error until time is up */
        for (struct addrinfo *a = list; a && *fd < 0; a = a->ai_next) *fd = try_connect(a, until);
        why = errno;
        if (*fd < 0 && again) poll(NULL, 0, 50);
    } while (*fd < 0 && again && ns_time_now() < until);
    freeaddrinfo(list);
    NS_FAIL_IF(*fd < 0, NS_ERR_DEVICE, "cannot reach %s port %d: %s", host, port, strerror(why));
    return NS_OK;
}

ns_status dist_connect(const char *host, int port, double until, int *fd, ns_error *err)
{
    return connect_to(host, port, until, 1, fd, err);
}

ns_status dist_connect_once(const char *host, int port, double until, int *fd, ns_error *err)
{
    return connect_to(host, port, until, 0, fd, err);
}

void dist_peer_address(int fd, char out[64])
{
    struct sockaddr_storage a;
    socklen_t n = sizeof a;
    out[0] = 0;
    if (getpeername(fd, (struct sockaddr *)&a, &n) == 0)
        getnameinfo((struct sockaddr *)&a, n, out, 64, NULL, 0, NI_NUMERICHOST);
}

ns_status dist_send_line(int fd, const char *text, double until, ns_error *err)
{
    char line[LINE_MAX_BYTES];
    int n = snprintf(line, sizeof line, "%s\n", text);
    NS_ASSERT(n > 0 && n < LINE_MAX_BYTES);
    for (int at = 0; at < n;) {
        ssize_t k = send(fd, line + at, (size_t)(n - at), MSG_NOSIGNAL);
        if (k > 0) {
            at += (int)k;
            continue;
        }
        NS_FAIL_IF(errno != EAGAIN && errno != EINTR, NS_ERR_DEVICE, "the connection broke: %s", strerror(errno));
        NS_FAIL_IF(ns_time_now() >= until, NS_ERR_DEVICE, "%s", "the connection takes no data");
        struct pollfd p = {.fd = fd, .events = POLLOUT};
        poll(&p, 1, ms_left(until));
    }
    return NS_OK;
}

int dist_next_line(int fd, line_reader *in, char out[LINE_MAX_BYTES])
{
    for (;;) {
        char *nl = memchr(in->buf, '\n', in->n);
        if (nl) {
            size_t len = (size_t)(nl - in->buf);
            memcpy(out, in->buf, len);
            out[len] = 0;
            in->n -= len + 1;
            memmove(in->buf, nl + 1, in->n);
            return 1;
        }
        if (in->n == sizeof in->buf) return -1; /* not ours: no line is that long */
        ssize_t k = recv(fd, in->buf + in->n, sizeof in->buf - in->n, 0);
        if (k == 0 || (k < 0 && errno != EAGAIN && errno != EINTR)) return -1;
        if (k < 0) return 0;
        in->n += (size_t)k;
    }
}

ns_status dist_recv_line(int fd, line_reader *in, char out[LINE_MAX_BYTES], double until, ns_error *err)
{
    for (;;) {
        int got = dist_next_line(fd, in, out);
        if (got == 1) return NS_OK;
        NS_FAIL_IF(got < 0, NS_ERR_DEVICE, "%s", "the connection was closed");
        NS_FAIL_IF(ns_time_now() >= until, NS_ERR_DEVICE, "%s", "no answer in time");
        struct pollfd p = {.fd = fd, .events = POLLIN};
        poll(&p, 1, ms_left(until));
    }
}

ns_status dist_recv_exact(int fd, char *out, int n, double until, ns_error *err)
{
    for (int at = 0; at < n;) {
        ssize_t k = recv(fd, out + at, (size_t)(n - at), 0);
        if (k > 0) at += (int)k;
        NS_FAIL_IF(k == 0 || (k < 0 && errno != EAGAIN && errno != EINTR), NS_ERR_DEVICE, "%s",
                   "the connection was closed");
        NS_FAIL_IF(at < n && ns_time_now() >= until, NS_ERR_DEVICE, "%s", "no answer in time");
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (at < n) poll(&p, 1, ms_left(until));
    }
    out[n] = 0;
    return NS_OK;
}
