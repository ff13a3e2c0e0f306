/* Calling a pipeline verb: options -> submission -> executor. The same for the command line, C and `ns run`. */
#include "jobs/pipes.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "jobs/exec.h"
#include "jobs/jobs_priv.h"

ns_status ns_pipe_find(const ns_pipe **out, const char *name, ns_error *err)
{
    static const ns_pipe *const all[] = {&ns_pipe_train,
                                         &ns_pipe_convert,
                                         &ns_pipe_eval,
                                         &ns_pipe_generate,
                                         &ns_pipe_run_cmd,
                                         &ns_pipe_start_server,
                                         &ns_pipe_check_contamination};
    enum { N = sizeof all / sizeof all[0] };
    const char *names[N];
    for (size_t i = 0; i < N; i++) {
        names[i] = all[i]->name;
        if (strcmp(all[i]->name, name) == 0) return *out = all[i], NS_OK;
    }
    const char *near = ns_suggest(name, names, N);
    NS_FAIL(NS_ERR_CONFIG, "there is no pipeline verb '%s'%s%s%s", name, near ? "; did you mean " : "",
            near ? near : "", near ? "?" : "");
}

static ns_status finish(ns_submission *s, const ns_common_options *o, ns_pipe_result *r, ns_error *err)
{
    ns_graph *g = &s->graph;
    for (size_t i = 0; i < s->notes.n && !ns_submission_is_silent(); i++) NS_INFO("%s", s->notes.v[i]);
    if (!g->n_tasks) return NS_OK; /* all is done already: a note has said so */
    r->n_tasks = (int)g->n_tasks;
    if (o->dry_run) return ns_submission_describe(s, &r->text, err);
    JOBS_TRY(ns_submission_send(s, err));
    snprintf(r->id, sizeof r->id, "%s", g->id);
    snprintf(r->dir, sizeof r->dir, "%s", g->dir);
    return o->wait || strcmp(g->executor, "none") == 0 ? ns_steer_wait(g, &r->failed, err) : NS_OK;
}

ns_status ns_pipe_run(const ns_pipe *pipe, void *options, const ns_parsed *p, ns_pipe_result *r, ns_error *err)
{
    ns_submission s;
    const ns_common_options *o = options; /* the first field of every options struct */
    memset(r, 0, sizeof *r);
    NS_TRY(ns_submission_open(&s, o, pipe->name, pipe->default_name, p->argc, p->argv_copy, err), "%s", "submission");
    ns_status st = pipe->build(&s, options, p, err);
    if (st == NS_OK) st = finish(&s, o, r, err);
    ns_submission_close(&s);
    if (st != NS_OK) ns_pipe_result_free(r);
    return st;
}

ns_status ns_pipe_call(const ns_pipe *pipe, int argc, const char *const *argv, ns_pipe_result *r, ns_error *err)
{
    ns_parsed p;
    const ns_verb v = {.name = pipe->name,
                       .options = pipe->options,
                       .n_options = pipe->n_options,
                       .options_size = pipe->options_size,
                       .allow_positional = pipe->positional,
                       .keep_overrides = pipe->overrides,
                       .keep_unknown = pipe->unknown};
    memset(r, 0, sizeof *r);
    NS_TRY(ns_options_parse(&p, &v, argc, argv, err), "%s", pipe->name);
    ns_status st = ns_pipe_run(pipe, p.options, &p, r, err);
    ns_parsed_free(&p);
    return st;
}

void ns_pipe_result_free(ns_pipe_result *r)
{
    ns_buf_free(&r->text);
}
