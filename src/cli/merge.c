/* `ns merge`: several packs into one, as the original's merge_packed_data. */
#include "base/file.h"
#include "cli/cli.h"
#include "pack/packs.h"

typedef struct merge_options {
    ns_opt_list inputs;
    const char *output;
} merge_options;

static const ns_option opts[] = {
    {.key = "input_prefixes",
     .flag = 1,
     .type = NS_OPT_LIST,
     .at = offsetof(merge_options, inputs),
     .help = "packs to merge, in order: paths without .input_ids.npy"},
    {.key = "output_prefix",
     .flag = 1,
     .type = NS_OPT_STRING,
     .at = offsetof(merge_options, output),
     .flags = NS_OPT_REQUIRED,
     .help = "the pack to make"},
};

static int run(void *options, ns_parsed *p)
{
    const merge_options *o = options;
    ns_error err = NS_ERROR_INIT;
    (void)p;
    return ns_packs_merge(o->inputs.v, o->inputs.n, o->output, &err) == NS_OK ? 0 : ns_cli_fail("merge", &err);
}

const ns_verb ns_verb_merge = {
    .name = "merge",
    .group = "data",
    .summary = "put several packs into one",
    .usage = "ns merge --input_prefixes A B ... --output_prefix O",
    .examples =
        "ns merge --input_prefixes a/packed_16384_seed0 b/packed_16384_seed0 --output_prefix all/packed_16384_seed0\n",
    .options = opts,
    .n_options = sizeof opts / sizeof opts[0],
    .options_size = sizeof(merge_options),
    .no_json = 1,
    .run = run,
};
