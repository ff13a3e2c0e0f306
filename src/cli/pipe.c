/* Shared by train, convert, eval, generate, run_cmd, run: check, submit, say what was submitted. */
#include "cli/pipe.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "arch/part.h"
#include "base/file.h"
#include "base/json.h"
#include "ckpt/model_io.h"
#include "train/sft.h"

/* What `ns sft` checks before it reads anything. The number of ranks is not taken from who started this process: the submission may be
 * typed inside of a job. */
static ns_status check_sft(ns_sft_options *o, ns_error *err)
{
    ns_ranks r;
    ns_world_options who;
    ns_topology t;
    ns_error inside = NS_ERROR_INIT;
    NS_TRY(ns_sft_check(o, err), "%s", "settings");
    ns_arch whole, mine; /* the model is here, or an earlier job makes it */
    if (o->tp > 1 && o->restore_from && ns_path_exists(o->restore_from)) {
        NS_TRY(ns_model_arch(&whole, o->restore_from, err), "base model %s", o->restore_from);
        NS_TRY(ns_part_arch(&mine, &whole, 0, (int)o->tp, err), "--tp");
    }
    if (ns_world_from_env(&who, &inside) == NS_OK && who.size == 1)
        return ns_ranks_layout(&r, o->devices, o->num_nodes, o->tp, o->cp, o->pp, err);
    return ns_topology_make(&t, (int)(o->devices * o->num_nodes), 0, (int)o->tp, (int)o->cp, (int)o->pp, err);
}

/* `ns plan` of a training's words. */
static ns_status plan_sft(ns_buf *out, ns_sft_options *o, double gpu_bytes, ns_error *err)
{
    ns_sft t;
    ns_status st = ns_sft_open(&t, o, err);
    if (st == NS_OK) st = ns_sft_report(&t, out, 0, err);
    double need = (double)t.engine.total_bytes;
    if (st == NS_OK && gpu_bytes > 0)
        st = ns_buf_printf(out, err,
                           need > gpu_bytes ? "DOES NOT FIT: %.3g GB of the %.3g GB of a GPU (gpu_memory): "
                                              "more tensor parallel, a smaller micro-batch, or full "
                                              "activations_checkpoint_granularity\n"
                                            : "fits: %.3g GB of the %.3g GB of a GPU (gpu_memory)\n",
                           need / 1e9, gpu_bytes / 1e9);
    ns_sft_close(&t);
    return st;
}

ns_status ns_cli_plan_words(ns_buf *out, const char *const *argv, size_t n, double gpu_bytes, ns_error *err)
{
    const ns_verb *v = ns_cli_find(argv[1]);
    ns_parsed p;
    if (!v || strcmp(v->name, "sft")) return NS_OK;
    NS_TRY(ns_options_parse(&p, v, (int)n - 2, argv + 2, err), "ns %s", argv[1]);
    ns_status st = p.help ? NS_OK : plan_sft(out, p.options, gpu_bytes, err);
    ns_parsed_free(&p);
    return st;
}

ns_status ns_cli_check_words(const char *const *argv, size_t n, ns_error *err)
{
    const ns_verb *v = ns_cli_find(argv[1]);
    NS_FAIL_IF(!v, NS_ERR_UNSUPPORTED,
               "`ns %s`, which this job needs, is not available yet: a later version of ns brings it", argv[1]);
    ns_parsed p;
    NS_TRY(ns_options_parse(&p, v, (int)n - 2, argv + 2, err), "ns %s", argv[1]);
    ns_status st = NS_OK;
    if (!p.help && strcmp(v->name, "sft") == 0) st = check_sft(p.options, err);
    ns_parsed_free(&p);
    if (st != NS_OK) ns_error_frame(err, __FILE__, __LINE__, "ns %s", argv[1]);
    return st;
}

void ns_cli_say_result(const char *verb, const ns_pipe_result *r, int json, int quiet)
{
    if (r->text.len) {
        fwrite(r->text.data, 1, r->text.len, stdout);
    } else if (json) {
        printf("{\"verb\": \"%s\", \"id\": \"%s\", ", verb, r->id);
        ns_cli_print_json("dir", r->dir);
        printf(", \"tasks\": %d, \"failed\": %d}\n", r->n_tasks, r->failed);
    } else if (*r->id && !quiet) {
        printf("%s: experiment %s, %d job%s\n", verb, r->id, r->n_tasks, r->n_tasks == 1 ? "" : "s");
        printf("  ns status %s    ns logs -f %s    ns cancel %s\n", r->id, r->id, r->id);
    }
    fflush(stdout);
}

/* A caller that is a program (the Python interface) gets the result on the descriptor that it names; errors: ns_cli_fail. */
static void report(const ns_pipe_result *r)
{
    int fd = ns_cli_result_fd();
    ns_buf b = {0};
    ns_error ignored = NS_ERROR_INIT;
    if (fd < 0) return;
    ns_status st = ns_buf_printf(&b, &ignored, "{\"id\": \"%s\", \"tasks\": %d, \"failed\": %d, \"dir\": ", r->id,
                                 r->n_tasks, r->failed);
    if (st == NS_OK) st = ns_json_write_str(&b, (ns_str){r->dir, strlen(r->dir)}, NS_JSON_ASCII, &ignored);
    if (st == NS_OK) st = ns_buf_adds(&b, "}", &ignored);
    if (st == NS_OK && write(fd, b.data, b.len) < 0) ns_buf_clear(&b); /* nobody listens any more */
    ns_buf_free(&b);
}

int ns_cli_pipe(const ns_pipe *pipe, void *options, ns_parsed *p)
{
    ns_error err = NS_ERROR_INIT;
    ns_pipe_result r;
    (void)ns_cli_result_fd(); /* marked: not for the jobs */
    ns_submission_set_check(ns_cli_check_words);
    ns_submission_set_plan(ns_cli_plan_words);
    if (ns_pipe_run(pipe, options, p, &r, &err) != NS_OK) return ns_cli_fail(pipe->name, &err);
    report(&r);
    ns_cli_say_result(pipe->name, &r, p->json, p->quiet);
    int failed = r.failed;
    if (failed)
        fprintf(stderr, "ns %s: %d of its final jobs did not succeed: ns status %s\n", pipe->name, failed, r.id);
    ns_pipe_result_free(&r);
    return failed ? 1 : 0;
}

ns_status ns_cli_experiment(ns_graph *g, const char *name, ns_error *err)
{
    int found;
    char hint[512];
    NS_TRY(ns_store_open(g, name, &found, err), "%s", name);
    if (found) return NS_OK;
    NS_TRY(ns_store_hint(hint, sizeof hint, name, err), "%s", name);
    NS_FAIL(NS_ERR_CONFIG, "there is no experiment '%s'%s (`ns status` lists all, see `ns status --help`)", name, hint);
}
