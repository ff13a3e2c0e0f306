/* main: `ns`, `ns --help`, `ns --version`, `ns VERB ...`. Starts nothing heavy, so that help is immediate; libraries are
 * opened by the verbs that use them. */
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "cli/cli.h"

static const char *const group_order[] = {"data", "training", "models", "inference", "evaluation", "jobs", "help"};

static int is_listed_group(const char *group)
{
    for (size_t i = 0; i < sizeof group_order / sizeof group_order[0]; i++)
        if (strcmp(group_order[i], group) == 0) return 1;
    return 0;
}

/* A full disk or a closed pipe must not look like success. */
static int close_output(const char *verb, int rc)
{
    if (fflush(stdout) == 0 && !ferror(stdout)) return rc;
    fprintf(stderr, "ns%s%s: cannot write to standard output\n", *verb ? " " : "", verb);
    return rc ? rc : 1;
}

static void print_group(const char *group, const ns_verb *const *v, size_t n)
{
    int open = 0;
    for (size_t i = 0; i < n; i++) {
        const char *g = v[i]->group ? v[i]->group : "other";
        if (group ? strcmp(g, group) != 0 : is_listed_group(g)) continue;
        if (!open++) printf("\n%s\n", group ? group : "other");
        printf("  %-20s %s\n", v[i]->name, v[i]->summary);
    }
}

static int print_help(void)
{
    size_t n = 0;
    const ns_verb *const *v = ns_cli_verbs(&n);
    printf("ns: raw generations in, a fine-tuned, evaluated language model out\n\nUsage: ns VERB [OPTIONS] "
           "[++key=value ...]\n");
    for (size_t i = 0; i < sizeof group_order / sizeof group_order[0]; i++) print_group(group_order[i], v, n);
    print_group(NULL, v, n);
    printf("\n`ns VERB --help` shows options, settings, defaults and examples. `ns --version` names this build.\n");
    return 0;
}

static int print_verb_help(const ns_verb *v)
{
    ns_error err = NS_ERROR_INIT;
    ns_buf text = {0};
    int rc = 0;
    if (ns_options_help(&text, v, &err) != NS_OK)
        rc = ns_cli_fail(v->name, &err);
    else
        fwrite(text.data, 1, text.len, stdout);
    ns_buf_free(&text);
    return rc;
}

static int unknown_verb(const char *word)
{
    const char *names[128];
    size_t n = 0;
    const ns_verb *const *v = ns_cli_verbs(&n);
    for (size_t i = 0; i < n && i < 128; i++) names[i] = v[i]->name;
    const char *near = ns_suggest(word, names, n < 128 ? n : 128);
    fprintf(stderr, "ns: there is no verb '%s'%s%s%s\n  `ns --help` lists all verbs.\n", word,
            near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
    return ns_status_exit_code(NS_ERR_CONFIG);
}

static int run_verb(const ns_verb *v, int argc, const char *const *argv)
{
    ns_error err = NS_ERROR_INIT;
    ns_parsed p;
    if (ns_options_parse(&p, v, argc, argv, &err) != NS_OK) return ns_cli_fail(v->name, &err);
    int rc = 0;
    if (p.help) {
        rc = print_verb_help(v);
    } else {
        if (p.quiet) ns_log_set_level(NS_LOG_WARN);
        if (p.json && v->no_json) NS_WARN("--json has no effect: ns %s prints no data", v->name);
        rc = v->run(p.options, &p);
    }
    ns_parsed_free(&p);
    return rc;
}

static int dispatch(int argc, const char *const *argv)
{
    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) return print_help();
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) return puts(ns_cli_version()) < 0;
    if (strcmp(argv[1], "help") == 0) {
        const ns_verb *v = argc > 2 ? ns_cli_find(argv[2]) : NULL;
        if (argc < 3) return print_help();
        return v ? print_verb_help(v) : unknown_verb(argv[2]);
    }
    const ns_verb *v = ns_cli_find(argv[1]);
    if (!v) return unknown_verb(argv[1]);
    return run_verb(v, argc - 2, argv + 2);
}

int main(int argc, char **argv)
{
    return close_output(argc > 1 && argv[1][0] != '-' ? argv[1] : "", dispatch(argc, (const char *const *)argv));
}
