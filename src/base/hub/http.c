/* libcurl's easy interface, one handle a request (http.h). */
#include "base/hub/http.h"

#include <stdio.h>
#include <string.h>

int ns_http_keeps_secrets(const char *url)
{
    static const char *const hosts[] = {"http://127.0.0.1", "http://localhost", "http://[::1]"};
    if (!strncmp(url, "https://", 8)) return 1;
    for (size_t i = 0; i < 3; i++) {
        size_t n = strlen(hosts[i]);
        if (!strncmp(url, hosts[i], n) && (!url[n] || url[n] == ':' || url[n] == '/')) return 1;
    }
    return 0;
}

#ifdef NS_HAVE_CURL
#define CURL_DISABLE_TYPECHECK
#define CURL_DISABLE_DEPRECATION
#include <curl/curl.h>
#include <dlfcn.h>
#include <pthread.h>

static struct {
    CURLcode (*global_init)(long);
    CURL *(*init)(void);
    CURLcode (*setopt)(CURL *, CURLoption, ...);
    CURLcode (*perform)(CURL *);
    CURLcode (*getinfo)(CURL *, CURLINFO, ...);
    void (*cleanup)(CURL *);
    const char *(*text)(CURLcode);
    struct curl_slist *(*append)(struct curl_slist *, const char *);
    void (*free_list)(struct curl_slist *);
    char *(*version)(void);
    int ok;
} api;

static void open_library(void)
{
    static const char *const names[] = {
        "curl_global_init",  "curl_easy_init",     "curl_easy_setopt",  "curl_easy_perform",   "curl_easy_getinfo",
        "curl_easy_cleanup", "curl_easy_strerror", "curl_slist_append", "curl_slist_free_all", "curl_version"};
    void *const at[] = {&api.global_init, &api.init, &api.setopt, &api.perform,   &api.getinfo,
                        &api.cleanup,     &api.text, &api.append, &api.free_list, &api.version};
    void *lib = dlopen("libcurl.so.4", RTLD_NOW | RTLD_LOCAL);
    if (!lib) lib = dlopen("libcurl-gnutls.so.4", RTLD_NOW | RTLD_LOCAL);
    if (!lib) return;
    for (size_t i = 0; i < sizeof at / sizeof at[0]; i++) {
        void *f = dlsym(lib, names[i]);
        if (!f) return;
        memcpy(at[i], &f, sizeof f);
    }
    api.ok = api.global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
}

static int opened(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, open_library);
    return api.ok;
}

typedef struct request {
    ns_http_get *g;
    CURL *c;
    int stopped;
} request;

static size_t body(char *p, size_t size, size_t n, void *user)
{
    request *r = user;
    long status = 0;
    api.getinfo(r->c, CURLINFO_RESPONSE_CODE, &status);
    if (status != 200 && status != 206) return size * n; /* the text of an error is not for people */
    r->stopped = r->g->sink(r->g->user, (int)status, p, size * n);
    return r->stopped ? 0 : size * n;
}

static int set_up(request *r, struct curl_slist **headers, char *problem)
{
    const ns_http_get *g = r->g;
    char line[1024], range[32];
    int bad = 0, secure = !strncmp(g->url, "https://", 8);
    if (g->token && ns_http_keeps_secrets(g->url)) {
        snprintf(line, sizeof line, "Authorization: Bearer %s", g->token); /* curl keeps it from other hosts */
        *headers = api.append(NULL, line);
        bad |= !*headers || api.setopt(r->c, CURLOPT_HTTPHEADER, *headers);
    }
    if (g->from > 0) {
        snprintf(range, sizeof range, "%lld-", (long long)g->from);
        bad |= api.setopt(r->c, CURLOPT_RANGE, range) != CURLE_OK;
    }
    bad |= api.setopt(r->c, CURLOPT_URL, g->url) != CURLE_OK;
    bad |= api.setopt(r->c, CURLOPT_USERAGENT, "ns/" NS_VERSION) != CURLE_OK;
    bad |= api.setopt(r->c, CURLOPT_FOLLOWLOCATION, 1L) != CURLE_OK;
    bad |= api.setopt(r->c, CURLOPT_MAXREDIRS, 10L) != CURLE_OK;
#if LIBCURL_VERSION_NUM >= 0x075500
    bad |= api.setopt(r->c, CURLOPT_PROTOCOLS_STR, "http,https") != CURLE_OK;
    bad |= api.setopt(r->c, CURLOPT_REDIR_PROTOCOLS_STR, secure ? "https" : "http,https") != CURLE_OK;
#else
    bad |= api.setopt(r->c, CURLOPT_PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS)) != CURLE_OK;
    bad |= api.setopt(r->c, CURLOPT_REDIR_PROTOCOLS,
                      (long)(secure ? CURLPROTO_HTTPS : CURLPROTO_HTTP | CURLPROTO_HTTPS)) != CURLE_OK;
#endif
    bad |= api.setopt(r->c, CURLOPT_NOSIGNAL, 1L) != CURLE_OK;
    bad |= api.setopt(r->c, CURLOPT_CONNECTTIMEOUT, 20L) != CURLE_OK;
    bad |= api.setopt(r->c, CURLOPT_LOW_SPEED_LIMIT, 1L) != CURLE_OK; /* silence for half a minute is no connection */
    bad |= api.setopt(r->c, CURLOPT_LOW_SPEED_TIME, 30L) != CURLE_OK;
    bad |= api.setopt(r->c, CURLOPT_BUFFERSIZE, 512L * 1024) != CURLE_OK;
    bad |= api.setopt(r->c, CURLOPT_WRITEFUNCTION, body) != CURLE_OK;
    bad |= api.setopt(r->c, CURLOPT_WRITEDATA, r) != CURLE_OK;
    bad |= api.setopt(r->c, CURLOPT_ERRORBUFFER, problem) != CURLE_OK;
    return bad;
}

ns_status ns_http_run(ns_http_get *g, ns_error *err)
{
    char problem[CURL_ERROR_SIZE] = "";
    struct curl_slist *headers = NULL;
    long status = 0;
    request r = {.g = g};
    g->status = g->retry = 0;
    g->what[0] = 0;
    NS_FAIL_IF(!opened(), NS_ERR_UNSUPPORTED,
               "no download: libcurl is not installed here (Debian: apt-get install libcurl4)");
    r.c = api.init();
    NS_FAIL_IF(!r.c, NS_ERR_MEMORY, "out of memory");
    int bad = set_up(&r, &headers, problem);
    CURLcode code = bad ? CURLE_FAILED_INIT : api.perform(r.c);
    api.getinfo(r.c, CURLINFO_RESPONSE_CODE, &status);
    if (code != CURLE_OK) snprintf(g->what, sizeof g->what, "%s", problem[0] ? problem : api.text(code));
    api.cleanup(r.c);
    api.free_list(headers);
    g->status = (int)status;
    NS_FAIL_IF(r.stopped, NS_ERR_STOPPED, "%s: stopped", g->url);
    if (code == CURLE_OK) {
        g->retry = status == 408 || status == 429 || status >= 500;
        snprintf(g->what, sizeof g->what, "HTTP status %ld", status);
        return NS_OK;
    }
    /* a wrong address or certificate stays wrong; a lost or slow connection does not */
    g->retry = code == CURLE_COULDNT_CONNECT || code == CURLE_OPERATION_TIMEDOUT || code == CURLE_PARTIAL_FILE ||
               code == CURLE_RECV_ERROR || code == CURLE_SEND_ERROR || code == CURLE_GOT_NOTHING ||
               code == CURLE_COULDNT_RESOLVE_HOST || code == CURLE_SSL_CONNECT_ERROR || code == CURLE_HTTP2 ||
               code == CURLE_HTTP2_STREAM;
    NS_FAIL(NS_ERR_IO, "%s: %s", g->url, g->what);
}

const char *ns_http_version(void)
{
    return opened() ? api.version() : NULL;
}
#else
ns_status ns_http_run(ns_http_get *g, ns_error *err)
{
    g->status = g->retry = 0;
    NS_FAIL(NS_ERR_UNSUPPORTED, "no download: this program was built without libcurl (Debian: apt-get install "
                                "libcurl4-openssl-dev, then build again)");
}

const char *ns_http_version(void)
{
    return NULL;
}
#endif
