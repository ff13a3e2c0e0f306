/* The program as users meet it: help, version, unknown words, exit codes, doctor. Spawns NS_PROGRAM. */
#include "base/testing.h"

#include <sys/wait.h>

#ifndef NS_PROGRAM
#define NS_PROGRAM "./ns"
#endif

static char out[65536], errors[65536];

static void slurp(const char *path, char *text, size_t size)
{
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    size_t n = fread(text, 1, size - 1, f);
    text[n] = 0;
    fclose(f);
}

/* Runs `<env> ns <args>` in a shell; fills out and errors; returns the exit code. */
static int ns_env(const char *env, const char *args)
{
    char dir[256], command[2048], path[300];
    ns_test_tmpdir(dir, sizeof dir);
    snprintf(command, sizeof command, "%s '%s' %s >%s/out 2>%s/err </dev/null", env, NS_PROGRAM, args, dir, dir);
    int rc = system(command);
    snprintf(path, sizeof path, "%s/out", dir);
    slurp(path, out, sizeof out);
    unlink(path);
    snprintf(path, sizeof path, "%s/err", dir);
    slurp(path, errors, sizeof errors);
    unlink(path);
    rmdir(dir);
    return WIFEXITED(rc) ? WEXITSTATUS(rc) : -1;
}

static int ns(const char *args)
{
    return ns_env("", args);
}

#define assert_has(text, needle)                                              \
    do {                                                                      \
        if (!strstr(text, needle)) fail_msg("'%s' lacks '%s'", text, needle); \
    } while (0)

static void help_and_version(void **state)
{
    (void)state;
    static const char *const spellings[] = {"", "--help", "-h", "help"};
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(ns(spellings[i]), 0);
        assert_has(out, "Usage: ns VERB");
        assert_has(out, "\nhelp\n  doctor ");
        assert_string_equal(errors, "");
    }
    assert_int_equal(ns("--version"), 0);
    assert_has(out, "ns " NS_VERSION " (");
    assert_int_equal(ns("version --json"), 0);
    assert_has(out, "{\"name\": \"ns\", \"version\": \"" NS_VERSION "\"");
    assert_int_equal(ns("doctor --help"), 0);
    assert_has(out, "Usage: ns doctor");
    assert_has(out, "--write-docs TEXT");
    assert_int_equal(ns("help doctor"), 0);
    assert_has(out, "Usage: ns doctor");
}

static void unknown_words(void **state)
{
    (void)state;
    assert_int_equal(ns("docter"), 2);
    assert_string_equal(out, "");
    assert_string_equal(errors,
                        "ns: there is no verb 'docter'; did you mean doctor?\n  `ns --help` lists all verbs.\n");
    assert_int_equal(ns("doctor --write_doc=x"), 2);
    assert_has(errors, "ns doctor: unknown option --write_doc; did you mean --write-docs?\n  `ns doctor --help` lists");
    assert_int_equal(ns("doctor ++x=1"), 2);
    assert_has(errors, "ns doctor: '++x=1': ns doctor has no configuration keys\n");
    assert_int_equal(system("'" NS_PROGRAM "' --help >/dev/full 2>&1") != 0, 1);
    assert_int_equal(system("'" NS_PROGRAM "' doctor >/dev/full 2>&1") != 0, 1);
    assert_int_equal(ns("help nothing_like_it_at_all"), 2);
}

static void doctor(void **state)
{
    (void)state;
    assert_int_equal(ns_env("PATH=/usr/bin:/bin", "doctor"), 0);
    assert_has(out, "processor\n");
    assert_has(out, "kernels");
    assert_int_equal(ns_env("PATH=/usr/bin:/bin", "doctor --json"), 0);
    assert_has(out, "{\"ok\": true, \"findings\": [{\"section\": \"program\", \"name\": \"version\"");
    assert_int_equal(ns_env("NS_ISA=nonsense PATH=/usr/bin:/bin", "doctor"), 1);
    assert_has(out, "CPU level 'nonsense' is unknown");
}

/* Another program called ns, and a Python package of the same name, before and behind ours. */
static void doctor_names_who_shadows_it(void **state)
{
    (void)state;
    char dir[256], env[2048], command[1024], want[1024];
    ns_test_tmpdir(dir, sizeof dir);
    snprintf(command, sizeof command,
             "cd %s && mkdir -p venv/bin venv/lib/python3.11/site-packages/nemo_skills ours && printf '#!/bin/sh\\n' "
             ">venv/bin/ns && "
             "chmod +x venv/bin/ns && ln -s '%s' ours/ns",
             dir, NS_PROGRAM);
    assert_int_equal(system(command), 0);
    snprintf(env, sizeof env, "PATH=%s/venv/bin:%s/ours:/usr/bin:/bin", dir, dir);
    assert_int_equal(ns_env(env, "doctor"), 1);
    snprintf(want, sizeof want, "%s/venv/bin/ns comes first on PATH: typing `ns` runs it, not this program", dir);
    assert_has(out, want);
    assert_has(out, "venv/lib/python3.11/site-packages/nemo_skills is what `import nemo_skills` finds in that Python");
    snprintf(env, sizeof env, "PATH=%s/ours:%s/venv/bin:/usr/bin:/bin", dir, dir);
    assert_int_equal(ns_env(env, "doctor"), 0);
    snprintf(want, sizeof want, "%s/venv/bin/ns is on PATH behind this program", dir);
    assert_has(out, want);
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    assert_int_equal(system(command), 0);
}

static void option_pages(void **state)
{
    (void)state;
    char dir[256], args[512], path[300], command[300];
    ns_test_tmpdir(dir, sizeof dir);
    snprintf(args, sizeof args, "doctor --write-docs %s/a/b", dir);
    assert_int_equal(ns(args), 0);
    snprintf(path, sizeof path, "%s/a/b/doctor.md", dir);
    slurp(path, out, sizeof out);
    assert_has(out, "# ns doctor\n");
    assert_has(out, "| `--write-docs TEXT` | none | a text |");
    snprintf(path, sizeof path, "%s/a/b/README.md", dir);
    slurp(path, out, sizeof out);
    assert_has(out, "| [doctor](doctor.md) | ");
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    assert_int_equal(system(command), 0);
    assert_int_equal(ns("doctor --write-docs /proc/nothing"), 1);
    assert_has(errors, "ns doctor: ");
}

/* That every table is sound is checked by `ns doctor`, whose exit code the tests above assert. */
static void every_verb_has_help(void **state)
{
    (void)state;
    char names[128][64];
    size_t n = 0;
    assert_int_equal(ns("--help"), 0);
    for (char *line = strtok(out, "\n"); line && n < 128; line = strtok(NULL, "\n"))
        if (strncmp(line, "  ", 2) == 0 && line[2] != ' ') sscanf(line, " %63s", names[n++]);
    assert_true(n >= 2);
    for (size_t i = 0; i < n; i++) {
        char args[128];
        snprintf(args, sizeof args, "%.60s --help", names[i]);
        int rc = ns(args);
        if (rc != 0 || !strstr(out, "Usage: ")) fail_msg("ns %s: exit %d: %s", args, rc, errors);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(help_and_version), cmocka_unit_test(unknown_words),
        cmocka_unit_test(doctor),           cmocka_unit_test(doctor_names_who_shadows_it),
        cmocka_unit_test(option_pages),     cmocka_unit_test(every_verb_has_help)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
