/* `ns download`: a model of the Hugging Face hub into its cache on this machine. */
#include <stdio.h>

#include "base/hub/download.h"
#include "cli/cli.h"

typedef struct download_options {
    const char *name, *revision;
    ns_opt_list include;
    int64_t jobs;
} download_options;

#define AT(f) offsetof(download_options, f)
static const ns_option opts[] = {
    {.key = "model",
     .flag = 1,
     .short_name = 'm',
     .type = NS_OPT_STRING,
     .at = AT(name),
     .help = "ORG/NAME on the hub"},
    {.key = "revision",
     .flag = 1,
     .type = NS_OPT_STRING,
     .at = AT(revision),
     .def = "main",
     .help = "branch, tag or commit"},
    {.key = "include",
     .flag = 1,
     .type = NS_OPT_LIST,
     .at = AT(include),
     .help =
         "patterns of files; default: all but other formats of the same weights (.bin, .pth, .gguf, original/ ...)"},
    {.key = "jobs",
     .flag = 1,
     .short_name = 'j',
     .type = NS_OPT_INT,
     .at = AT(jobs),
     .def = "4",
     .min = 1,
     .max = 16,
     .help = "files at a time"},
};

static int run(void *options, ns_parsed *p)
{
    const download_options *o = options;
    ns_error err = NS_ERROR_INIT;
    static ns_download_report r; /* large */
    ns_download_args a = {.name = o->name           ? o->name
                                  : p->n_positional ? p->positional[0]
                                                    : NULL,
                          .revision = o->revision,
                          .include = o->include.v,
                          .n_include = o->include.n,
                          .n_parallel = (int)o->jobs};
    if (!a.name || p->n_positional > (o->name ? 0 : 1)) {
        (void)!ns_error_set(&err, NS_ERR_CONFIG, __FILE__, __LINE__, "give one model: ns download ORG/NAME");
        return ns_cli_fail("download", &err);
    }
    ns_cli_when_stopped("ns download: stopped by a signal; the same command goes on where it was", NULL);
    if (ns_download(&a, &r, &err) != NS_OK) return ns_cli_fail("download", &err);
    if (p->json) {
        printf("{");
        ns_cli_print_json("path", r.path);
        printf(", \"commit\": \"%s\", \"files\": %lld, \"fetched\": %lld, \"bytes\": %lld, "
               "\"bytes_fetched\": %lld}\n",
               r.commit, (long long)r.n_files, (long long)r.n_fetched, (long long)r.bytes, (long long)r.bytes_fetched);
        return 0;
    }
    printf("%s\n", r.path);
    if (p->quiet) return 0;
    printf("%lld files, %.2f GB: %lld fetched (%.2f GB, %lld of them continued), %lld were here", (long long)r.n_files,
           (double)r.bytes / 1e9, (long long)r.n_fetched, (double)r.bytes_fetched / 1e9, (long long)r.n_continued,
           (long long)(r.n_files - r.n_fetched));
    if (r.n_skipped) printf("; %lld left out (--include '*' takes all)", (long long)r.n_skipped);
    printf("; checksums right\n");
    return 0;
}

const ns_verb ns_verb_download = {
    .name = "download",
    .group = "models",
    .summary = "fetch a model from the Hugging Face hub: resumable, checked",
    .usage = "ns download ORG/NAME [--revision REV] [--include PATTERN]",
    .examples = "ns download Qwen/Qwen2.5-0.5B\n"
                "HF_TOKEN=hf_... ns download meta-llama/Llama-3.2-1B\n"
                "ns download Qwen/Qwen2.5-0.5B --include '*.json'",
    .options = opts,
    .n_options = sizeof opts / sizeof opts[0],
    .options_size = sizeof(download_options),
    .allow_positional = 1,
    .run = run,
};
