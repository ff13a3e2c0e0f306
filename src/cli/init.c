/* `ns init`: a model with random weights from a config.json, to train from scratch or to try things on. */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "ckpt/model_io.h"
#include "cli/cli.h"
#include "tok/tok.h"

typedef struct init_options {
    const char *config, *output, *tokenizer, *dtype;
    int64_t seed;
    int force;
} init_options;

#define AT(field) offsetof(init_options, field)
static const ns_option opts[] = {
    {.key = "config",
     .flag = 1,
     .short_name = 'c',
     .type = NS_OPT_STRING,
     .at = AT(config),
     .flags = NS_OPT_REQUIRED,
     .help = "config.json of the architecture, or a folder that holds one"},
    {.key = "output",
     .flag = 1,
     .short_name = 'o',
     .type = NS_OPT_STRING,
     .at = AT(output),
     .flags = NS_OPT_REQUIRED,
     .help = "model folder to make"},
    {.key = "tokenizer",
     .flag = 1,
     .type = NS_OPT_STRING,
     .flags = NS_OPT_MODEL,
     .at = AT(tokenizer),
     .help = "folder whose tokenizer files are copied into the model"},
    {.key = "dtype",
     .flag = 1,
     .type = NS_OPT_STRING,
     .at = AT(dtype),
     .def = "bf16",
     .choices = "bf16|f32|f16",
     .help = "type of the stored weights"},
    {.key = "seed",
     .flag = 1,
     .type = NS_OPT_INT,
     .at = AT(seed),
     .def = "1234",
     .min = 0,
     .max = 9007199254740992.0,
     .help = "seed of the random weights; the same seed gives the same bytes anywhere"},
    {.key = "force",
     .flag = 1,
     .type = NS_OPT_BOOL,
     .at = AT(force),
     .def = "false",
     .help = "replace an existing model at --output"},
};

/* A token id beyond the embedding would only show when training meets it: refuse the pair here. */
static ns_status check_tokenizer(const init_options *o, ns_error *err)
{
    char path[4096];
    ns_arch a;
    ns_tok *t = NULL;
    ns_error why = NS_ERROR_INIT;
    if (!o->tokenizer) return NS_OK;
    NS_FAIL_IF(!ns_path_is_dir(o->tokenizer), NS_ERR_INPUT, "%s: no such folder of tokenizer files", o->tokenizer);
    int n = snprintf(path, sizeof path, ns_path_is_dir(o->config) ? "%s/config.json" : "%s", o->config);
    NS_FAIL_IF(n < 0 || n >= (int)sizeof path, NS_ERR_INPUT, "path is too long: '%.100s...'", o->config);
    NS_TRY(ns_arch_read(&a, path, err), "%s", "");
    n = snprintf(path, sizeof path, "%s/tokenizer.json", o->tokenizer);
    if (n < 0 || n >= (int)sizeof path || !ns_path_exists(path)) {
        NS_WARN("%s has no tokenizer.json: cannot compare it with vocab_size", o->tokenizer);
        return NS_OK;
    }
    if (ns_tok_load(&t, o->tokenizer, &why) != NS_OK) {
        NS_WARN("cannot compare the tokenizer with vocab_size: %s", why.msg);
        return NS_OK;
    }
    int64_t size = ns_tok_vocab_size(t);
    ns_tok_free(&t);
    NS_FAIL_IF(size > a.vocab, NS_ERR_MISMATCH,
               "the tokenizer of %s has ids up to %lld, \"vocab_size\" of %s is %lld: raise it", o->tokenizer,
               (long long)size - 1, o->config, (long long)a.vocab);
    return NS_OK;
}

static int run(void *options, ns_parsed *p)
{
    const init_options *o = options;
    ns_error err = NS_ERROR_INIT;
    if (check_tokenizer(o, &err) != NS_OK) return ns_cli_fail("init", &err);
    ns_dtype dt = o->dtype[0] == 'b' ? NS_DTYPE_BF16 : o->dtype[1] == '3' ? NS_DTYPE_F32 : NS_DTYPE_F16;
    ns_model_init_args a = {.config_path = o->config,
                            .out = o->output,
                            .tokenizer_dir = o->tokenizer,
                            .dt = dt,
                            .seed = (uint64_t)o->seed,
                            .replace = o->force};
    int64_t n = 0;
    if (ns_model_init(&a, &n, &err) != NS_OK) return ns_cli_fail("init", &err);
    if (p->json) {
        printf("{");
        ns_cli_print_json("output", o->output);
        printf(", \"parameters\": %lld, \"dtype\": \"%s\", \"seed\": %lld}\n", (long long)n, ns_dtype_name(dt),
               (long long)o->seed);
    } else if (!p->quiet) {
        printf("%s: %lld parameters, %s, seed %lld\n", o->output, (long long)n, ns_dtype_name(dt), (long long)o->seed);
    }
    return 0;
}

const ns_verb ns_verb_init = {
    .name = "init",
    .group = "models",
    .summary = "make a model with random weights from a config.json",
    .usage = "ns init --config config.json --output DIR [--tokenizer DIR] [--seed N] [--dtype bf16|f32|f16]",
    .examples = "ns init --config tiny/config.json --output models/tiny --tokenizer models/Llama-3.2-1B --seed 7",
    .options = opts,
    .n_options = sizeof opts / sizeof opts[0],
    .options_size = sizeof(init_options),
    .run = run,
};
