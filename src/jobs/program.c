/* The program that jobs run: a copy, so that building or updating ns does not change jobs that wait, and a folder that nodes
 * share. <home>/bin/<version>-<checksum>/{bin/ns, shim/python, shim/python3, lib/, share/ns/}; published by one rename. */
#include <errno.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "base/file.h"
#include "jobs/jobs_priv.h"
#include "jobs/submit.h"

#ifndef NS_VERSION
#define NS_VERSION "?"
#endif

/* The documented `python [-m] nemo_skills...` programs are verbs here; any other use gets the next python of $PATH. */
static const char shim_text[] = "#!/bin/sh\n"
                                "self=$(cd \"$(dirname \"$0\")\" && pwd)\n"
                                "ns=$self/../bin/ns\n"
                                "name=\n"
                                "if [ \"${1:-}\" = -m ]; then\n"
                                "    case ${2:-} in nemo_skills.*) name=${2#nemo_skills.}; shift 2 ;; esac\n"
                                "else\n"
                                "    case ${1:-} in nemo_skills/*.py|*/nemo_skills/*.py) name=${1##*nemo_skills/}; "
                                "name=${name%.py}; shift ;; esac\n"
                                "    name=$(printf %s \"$name\" | tr / .)\n"
                                "fi\n"
                                "case $name in\n"
                                "training.prepare_data) exec \"$ns\" prepare \"$@\" ;;\n"
                                "training.prepare_packed_ft_dataset) exec \"$ns\" pack \"$@\" ;;\n"
                                "training.merge_packed_data) exec \"$ns\" merge \"$@\" ;;\n"
                                "training.start_sft) exec \"$ns\" sft \"$@\" ;;\n"
                                "training.start_dpo) exec \"$ns\" dpo \"$@\" ;;\n"
                                "training.start_rm) exec \"$ns\" rm \"$@\" ;;\n"
                                "training.average_checkpoints) exec \"$ns\" average \"$@\" ;;\n"
                                "dataset.prepare) exec \"$ns\" dataset prepare \"$@\" ;;\n"
                                "inference.generate) exec \"$ns\" infer \"$@\" ;;\n"
                                "evaluation.evaluate_results) exec \"$ns\" grade \"$@\" ;;\n"
                                "?*) echo \"python: nemo_skills.$name has no counterpart in ns\" >&2; exit 2 ;;\n"
                                "esac\n"
                                "PATH=$(printf %s \"$PATH\" | tr : '\\n' | grep -vxF \"$self\" | paste -sd: -)\n"
                                "exec \"$(basename \"$0\")\" \"$@\"\n";

static ns_status copy_file(const char *from, const char *to, mode_t mode, ns_error *err)
{
    ns_map m = {0};
    NS_TRY(ns_map_open(&m, from, err), "%s", "copy");
    ns_status st = ns_file_replace(to, m.data ? (const char *)m.data : "", m.size, err);
    ns_map_close(&m);
    if (st == NS_OK && chmod(to, mode) != 0)
        st = ns_error_set(err, NS_ERR_IO, __FILE__, __LINE__, "%s: %s", to, strerror(errno));
    return st;
}

static ns_status copy_tree(const char *from, const char *to, ns_error *err)
{
    char a[JOBS_PATH], b[JOBS_PATH];
    DIR *d = opendir(from);
    if (!d) return NS_OK; /* optional */
    ns_status st = ns_mkdirs(to, err);
    struct dirent *e;
    while (st == NS_OK && (e = readdir(d))) {
        struct stat sb;
        if (e->d_name[0] == '.') continue;
        st = jobs_path(a, err, "%s/%s", from, e->d_name);
        if (st == NS_OK) st = jobs_path(b, err, "%s/%s", to, e->d_name);
        if (st != NS_OK || stat(a, &sb) != 0) continue;
        if (S_ISDIR(sb.st_mode))
            st = copy_tree(a, b, err);
        else if (S_ISREG(sb.st_mode))
            st = copy_file(a, b, 0644, err);
    }
    closedir(d);
    return st;
}

static char chosen[JOBS_PATH];

ns_status ns_program_use(const char *path, ns_error *err)
{
    return jobs_path(chosen, err, "%s", path);
}

/* The running program, unless another was chosen: by ns_program_use or $NS_PROGRAM. */
static ns_status own_program(char out[JOBS_PATH], ns_error *err)
{
    const char *env = getenv("NS_PROGRAM");
    if (chosen[0]) return jobs_path(out, err, "%s", chosen);
    if (env && *env) return jobs_path(out, err, "%s", env);
    ssize_t n = readlink("/proc/self/exe", out, JOBS_PATH - 1);
    NS_FAIL_IF(n <= 0, NS_ERR_IO, "cannot find this program's own file");
    out[n] = 0;
    return NS_OK;
}

/* Opened at run time from the program's own folder (a build tree) or ../lib (an installation, which is copied whole). */
static const char *const plugins[] = {"libns_cuda.so", "libns_mpi.so", "libns_nccl.so"};
enum { N_PLUGINS = 3 };

static ns_status beside(char out[JOBS_PATH], const char *exe, const char *name, ns_error *err)
{
    const char *slash = strrchr(exe, '/');
    return jobs_path(out, err, "%.*s/%s", (int)(slash ? slash - exe : 0), exe, name);
}

ns_status ns_program_place(ns_arena *a, const char **out, ns_error *err)
{
    char exe[JOBS_PATH], home[JOBS_PATH];
    ns_map m = {0};
    NS_TRY(own_program(exe, err), "%s", "program");
    NS_TRY(ns_store_home(home, sizeof home, err), "%s", "program");
    NS_TRY(ns_map_open(&m, exe, err), "program");
    uint32_t crc = ns_crc32c(0, m.data, m.size);
    for (size_t i = 0; i < N_PLUGINS; i++) { /* a plug-in that was rebuilt is another version, too */
        char path[JOBS_PATH];
        struct stat sb;
        if (beside(path, exe, plugins[i], NULL) != NS_OK || stat(path, &sb) != 0) continue;
        int64_t what[3] = {sb.st_size, sb.st_mtim.tv_sec, sb.st_mtim.tv_nsec};
        crc = ns_crc32c(crc, what, sizeof what);
    }
    *out = ns_arena_printf(a, err, "%s/bin/%s-%08x", home, NS_VERSION, crc);
    ns_map_close(&m);
    return *out ? NS_OK : NS_ERR_MEMORY;
}

static ns_status write_shims(const char *tmp, ns_error *err)
{
    static const char *const names[] = {"python", "python3"};
    char path[JOBS_PATH];
    for (size_t i = 0; i < 2; i++) {
        NS_TRY(jobs_path(path, err, "%s/shim/%s", tmp, names[i]), "%s", "program");
        NS_TRY(ns_file_replace(path, shim_text, sizeof shim_text - 1, err), "program");
        NS_FAIL_IF(chmod(path, 0755) != 0, NS_ERR_IO, "%s: %s", path, strerror(errno));
    }
    return NS_OK;
}

static ns_status fill(const char *tmp, const char *exe, ns_error *err)
{
    char path[JOBS_PATH], from[JOBS_PATH];
    static const char *const dirs[] = {"bin", "shim"};
    for (size_t i = 0; i < 2; i++) {
        NS_TRY(jobs_path(path, err, "%s/%s", tmp, dirs[i]), "%s", "program");
        NS_TRY(ns_mkdirs(path, err), "program");
    }
    NS_TRY(jobs_path(path, err, "%s/bin/ns", tmp), "%s", "program");
    NS_TRY(copy_file(exe, path, 0755, err), "program");
    for (size_t i = 0; i < N_PLUGINS; i++) {
        NS_TRY(beside(from, exe, plugins[i], err), "%s", "program");
        if (!ns_path_exists(from)) continue;
        NS_TRY(jobs_path(path, err, "%s/bin/%s", tmp, plugins[i]), "%s", "program");
        NS_TRY(copy_file(from, path, 0755, err), "program");
    }
    NS_TRY(write_shims(tmp, err), "program");
    const char *slash = strrchr(exe, '/');
    int n = (int)(slash ? slash - exe : 0);
    NS_TRY(jobs_path(from, err, "%.*s/../lib", n, exe), "%s", "program");
    NS_TRY(jobs_path(path, err, "%s/lib", tmp), "%s", "program");
    NS_TRY(copy_tree(from, path, err), "program");
    NS_TRY(jobs_path(path, err, "%s/share/ns", tmp), "%s", "program");
    for (size_t i = 0; i < 3; i++) {
        char prompt[JOBS_PATH];
        switch (i) {
        case 0: NS_TRY(jobs_path(from, err, "%.*s/../share/ns", n, exe), "%s", "program"); break;
        case 1: NS_TRY(jobs_path(from, err, "%.*s/../share", n, exe), "%s", "program"); break;
        default: NS_TRY(jobs_path(from, err, "%s/share", NS_DATA_DIR), "%s", "program"); break;
        }
        NS_TRY(jobs_path(prompt, err, "%s/prompt", from), "%s", "program");
        if (ns_path_is_dir(prompt)) return copy_tree(from, path, err);
    }
    return NS_OK;
}

ns_status ns_program_copy(const char *place, ns_error *err)
{
    char exe[JOBS_PATH], tmp[JOBS_PATH];
    if (ns_path_is_dir(place)) return NS_OK;
    NS_TRY(own_program(exe, err), "%s", "program");
    NS_TRY(jobs_path(tmp, err, "%s.tmp.%ld", place, (long)getpid()), "%s", "program");
    ns_status st = fill(tmp, exe, err);
    /* another submission may have been faster: its copy is the same */
    if (st == NS_OK && rename(tmp, place) != 0 && !ns_path_is_dir(place))
        st = ns_error_set(err, NS_ERR_IO, __FILE__, __LINE__, "cannot make %s: %s", place, strerror(errno));
    ns_error ignored = NS_ERROR_INIT;
    if (ns_path_exists(tmp) && ns_remove_tree(tmp, &ignored) != NS_OK) return st; /* litter, not a failure */
    return st;
}
