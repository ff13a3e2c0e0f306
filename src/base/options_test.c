/* Options: both spellings, defaults, files, order, types, bounds, errors with their exact text, help, Markdown, faults. */
#include "base/testing.h"

#include "base/log.h"
#include "base/mem.h"
#include "base/options.h"

typedef struct opts {
    const char *input;
    int64_t workers;
    int force, exclusive;
    ns_opt_list after;
    double rate;
    const char *kind;
    int64_t epochs, steps, mbs, gbs, vpp;
    double lr, clip;
    int packed, logger, shuffle;
    const char *name, *path, *filename, *precision, *copy;
    ns_opt_list betas, files;
    const ns_node *val_interval, *sched, *wandb;
    int64_t seed2;
} opts;

#define AT(f) .at = offsetof(opts, f)
static const ns_option table[] = {
    {.key = "input", .flag = 1, .short_name = 'i', .type = NS_OPT_STRING, AT(input), .help = "file to read"},
    {.key = "num_workers",
     .flag = 1,
     .short_name = 'w',
     .type = NS_OPT_INT,
     AT(workers),
     .def = "4",
     .min = 1,
     .max = 64,
     .help = "threads"},
    {.key = "force", .flag = 1, .type = NS_OPT_BOOL, AT(force), .help = "overwrite"},
    {.key = "exclusive", .flag = 1, .type = NS_OPT_BOOL, AT(exclusive), .def = "true", .help = "whole nodes"},
    {.key = "run_after", .flag = 1, .type = NS_OPT_LIST, AT(after), .help = "wait for these"},
    {.key = "rate", .flag = 1, .type = NS_OPT_FLOAT, AT(rate), .def = "0.5", .min = 0, .max = 1, .help = "share"},
    {.key = "kind",
     .flag = 1,
     .type = NS_OPT_STRING,
     AT(kind),
     .def = "sft",
     .choices = "sft|dpo|rm",
     .help = "algorithm"},
    {.key = "name", .type = NS_OPT_STRING, AT(name), .def = "megatron_gpt_sft", .help = "run name"},
    {.key = "trainer.precision",
     .type = NS_OPT_STRING,
     AT(precision),
     .def = "bf16",
     .choices = "bf16|bf16-mixed|16|32",
     .help = "arithmetic"},
    {.key = "trainer.sft.max_epochs",
     .type = NS_OPT_INT,
     AT(epochs),
     .def = "2",
     .min = 1,
     .max = 1e6,
     .help = "passes"},
    {.key = "trainer.sft.max_steps", .type = NS_OPT_INT, AT(steps), .def = "-1", .help = "cap"},
    {.key = "trainer.sft.val_check_interval",
     .type = NS_OPT_NODE,
     AT(val_interval),
     .def = "${.max_steps}",
     .help = "steps or share"},
    {.key = "trainer.sft.gradient_clip_val",
     .type = NS_OPT_FLOAT,
     AT(clip),
     .null_value = -1,
     .flags = NS_OPT_NULLABLE,
     .help = "norm"},
    {.key = "exp_manager.create_tensorboard_logger", .type = NS_OPT_BOOL, AT(logger), .def = "false", .help = "events"},
    {.key = "exp_manager.name", .type = NS_OPT_STRING, AT(copy), .def = "${name}", .help = "copy of name"},
    {.key = "exp_manager.filename",
     .type = NS_OPT_STRING,
     AT(filename),
     .def = "x--{val_loss:.3f}-{step}, {epoch}",
     .help = "pattern"},
    {.key = "model.restore_from_path", .type = NS_OPT_STRING, AT(path), .flags = NS_OPT_REQUIRED, .help = "base model"},
    {.key = "exp_manager.wandb_logger_kwargs", .type = NS_OPT_NODE, AT(wandb), .help = "anything"},
    {.key = "model.optim.lr", .type = NS_OPT_FLOAT, AT(lr), .def = "5e-6", .min = 0, .max = 10, .help = "rate"},
    {.key = "model.optim.betas", .type = NS_OPT_LIST, AT(betas), .def = "[0.9, 0.98]", .help = "Adam"},
    {.key = "model.optim.sched",
     .type = NS_OPT_NODE,
     AT(sched),
     .def = "{name: CosineAnnealing, warmup_steps: 0}",
     .help = "schedule"},
    {.key = "model.micro_batch_size",
     .type = NS_OPT_INT,
     AT(mbs),
     .def = "${model.data.train_ds.micro_batch_size}",
     .min = 1,
     .max = 1e6,
     .help = "mbs"},
    {.key = "model.data.train_ds.micro_batch_size",
     .type = NS_OPT_INT,
     AT(seed2),
     .def = "1",
     .min = 1,
     .max = 1e6,
     .help = "mbs"},
    {.key = "model.data.train_ds.global_batch_size",
     .type = NS_OPT_INT,
     AT(gbs),
     .def = "512",
     .min = 1,
     .max = 1e9,
     .help = "gbs"},
    {.key = "model.data.train_ds.packed_sequence", .type = NS_OPT_BOOL, AT(packed), .def = "False", .help = "packs"},
    {.key = "model.data.train_ds.shuffle",
     .type = NS_OPT_BOOL,
     AT(shuffle),
     .def = "true",
     .flags = NS_OPT_COMPAT,
     .help = "shuffle",
     .compat_note = "training data is always shuffled"},
    {.key = "model.data.train_ds.file_names", .type = NS_OPT_LIST, AT(files), .help = "files"},
    {.key = "model.virtual_pipeline_model_parallel_size", .type = NS_OPT_INT, AT(vpp), .help = "chunks"},
};
static int run_nothing(void *o, ns_parsed *p)
{
    (void)o, (void)p;
    return 0;
}
static const char *const builtins[] = {"small", "model:\n  optim: {lr: 0.1}\n", "big", "model: {micro_batch_size: 8}\n",
                                       NULL};
static const ns_verb verb = {.name = "try",
                             .group = "help",
                             .summary = "a verb for tests",
                             .usage = "ns try ++model.restore_from_path=DIR",
                             .examples = "ns try ++model.restore_from_path=m\nns try -i x",
                             .options = table,
                             .n_options = sizeof table / sizeof table[0],
                             .options_size = sizeof(opts),
                             .run = run_nothing,
                             .builtin_configs = builtins};

#define PARSE(v, p, err, ...) parse_words(v, p, err, (const char *const[]){__VA_ARGS__, NULL})
static ns_status parse_words(const ns_verb *v, ns_parsed *p, ns_error *err, const char *const *words)
{
    int n = 0;
    while (words[n]) n++;
    return ns_options_parse(p, v, n, words, err);
}
#define BASE "++model.restore_from_path=m"
#define assert_refused(text, ...)                                                           \
    do {                                                                                    \
        ns_parsed p_;                                                                       \
        ns_error err_ = NS_ERROR_INIT;                                                      \
        assert_ns_fails(PARSE(&verb, &p_, &err_, __VA_ARGS__), NS_ERR_CONFIG, text, &err_); \
    } while (0)

static void defaults(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_parsed p;
    assert_ns_ok(PARSE(&verb, &p, &err, BASE), &err);
    const opts *o = p.options;
    assert_null(o->input);
    assert_int_equal(o->workers, 4);
    assert_int_equal(o->force, 0);
    assert_int_equal(o->exclusive, 1);
    assert_int_equal(o->after.n, 0);
    assert_true(o->rate == 0.5);
    assert_string_equal(o->kind, "sft");
    assert_int_equal(o->epochs, 2);
    assert_int_equal(o->steps, -1);
    assert_int_equal(o->val_interval->i, -1);
    assert_true(o->clip == -1);
    assert_string_equal(o->copy, "megatron_gpt_sft");
    assert_string_equal(o->filename, "x--{val_loss:.3f}-{step}, {epoch}");
    assert_string_equal(o->path, "m");
    assert_true(o->lr == 5e-6);
    assert_int_equal(o->betas.n, 2);
    assert_string_equal(o->betas.v[1], "0.98");
    assert_string_equal(ns_node_get(o->sched, "name")->s, "CosineAnnealing");
    assert_int_equal(o->mbs, 1);
    assert_int_equal(o->gbs, 512);
    assert_int_equal(o->files.n, 0);
    assert_int_equal(o->vpp, 0);
    assert_int_equal(p.argc, 1);
    assert_string_equal(p.argv_copy[0], BASE);
    ns_parsed_free(&p);
}

static void flags_in_all_spellings(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_parsed p;
    assert_ns_ok(PARSE(&verb, &p, &err, BASE, "--input", "a.jsonl", "--num-workers=8", "--force", "--no-exclusive",
                       "--run_after=x", "--run_after", "y", "z", "--rate", ".25", "--kind=dpo", "--json", "--quiet"),
                 &err);
    const opts *o = p.options;
    assert_string_equal(o->input, "a.jsonl");
    assert_int_equal(o->workers, 8);
    assert_int_equal(o->force, 1);
    assert_int_equal(o->exclusive, 0);
    assert_int_equal(o->after.n, 3);
    assert_string_equal(o->after.v[2], "z");
    assert_true(o->rate == 0.25);
    assert_string_equal(o->kind, "dpo");
    assert_true(p.json && p.quiet);
    ns_parsed_free(&p);
    assert_ns_ok(PARSE(&verb, &p, &err, BASE, "-i", "b", "-w9", "--force=false", "--exclusive"), &err);
    o = p.options;
    assert_string_equal(o->input, "b");
    assert_int_equal(o->workers, 9);
    assert_int_equal(o->force, 0);
    assert_int_equal(o->exclusive, 1);
    ns_parsed_free(&p);
}

static void help_wins(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_parsed p;
    assert_ns_ok(PARSE(&verb, &p, &err, "-h"), &err);
    assert_int_equal(p.help, 1);
    ns_parsed_free(&p);
    assert_ns_ok(PARSE(&verb, &p, &err, "++model.nothing=1", "--nonsense", "--help"), &err);
    assert_int_equal(p.help, 1);
    ns_parsed_free(&p);
}

static void overrides_and_types(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_parsed p;
    assert_ns_ok(PARSE(&verb, &p, &err, BASE, "++model.data.train_ds.global_batch_size=138.0",
                       "model.data.train_ds.micro_batch_size=4", "trainer.precision=16",
                       "+exp_manager.create_tensorboard_logger=True", "++model.optim.lr=1",
                       "++model.data.train_ds.file_names=[/data/a.jsonl,/data/b.jsonl]",
                       "++model.optim.sched.warmup_steps=10", "++trainer.sft.val_check_interval=0.5", "++name=007",
                       "~model.optim.betas", "++trainer.sft.gradient_clip_val=1.0",
                       "++model.data.train_ds.packed_sequence=True", "++trainer.sft.max_steps='12'"),
                 &err);
    const opts *o = p.options;
    assert_int_equal(o->gbs, 138);
    assert_int_equal(o->mbs, 4); /* the interpolated default follows */
    assert_string_equal(o->precision, "16");
    assert_int_equal(o->logger, 1);
    assert_true(o->lr == 1.0);
    assert_int_equal(o->files.n, 2);
    assert_string_equal(o->files.v[1], "/data/b.jsonl");
    assert_int_equal(ns_node_get(o->sched, "warmup_steps")->i, 10);
    assert_string_equal(ns_node_get(o->sched, "name")->s, "CosineAnnealing");
    assert_true(o->val_interval->f == 0.5);
    assert_string_equal(o->name, "007");
    assert_int_equal(o->betas.n, 2); /* deleted: the default again */
    assert_true(o->clip == 1.0);
    assert_int_equal(o->packed, 1);
    assert_int_equal(o->steps, 12);
    ns_parsed_free(&p);
    assert_ns_ok(PARSE(&verb, &p, &err, BASE, "++model.data.train_ds.file_names=one.jsonl", "++name=a", "++name=b",
                       "++trainer.sft.gradient_clip_val=null"),
                 &err);
    o = p.options;
    assert_int_equal(o->files.n, 1);
    assert_string_equal(o->name, "b"); /* later wins */
    assert_true(o->clip == -1);
    ns_parsed_free(&p);
}

static void rows_that_take_anything(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_parsed p;
    /* as the documented launcher writes them: plain for what its file has, + for the rest */
    assert_ns_ok(PARSE(&verb, &p, &err, BASE, "exp_manager.wandb_logger_kwargs.name=x",
                       "exp_manager.wandb_logger_kwargs.project=p", "+exp_manager.wandb_logger_kwargs.id=y"),
                 &err);
    const opts *o = p.options;
    assert_string_equal(ns_node_get(o->wandb, "name")->s, "x");
    assert_string_equal(ns_node_get(o->wandb, "id")->s, "y");
    ns_parsed_free(&p);
    assert_refused("there is no key 'model.optim.sched.warmup'", BASE,
                   "model.optim.sched.warmup=1"); /* has a default: ++ */
}

static void wrong_words(void **state)
{
    (void)state;
    assert_refused("override ++model.data.train_ds.mirco_batch_size=4: unknown key "
                   "'model.data.train_ds.mirco_batch_size'; did you mean "
                   "model.data.train_ds.micro_batch_size?",
                   BASE, "++model.data.train_ds.mirco_batch_size=4");
    assert_refused(
        "unknown key 'micro_batch_size'; did you mean model.micro_batch_size or model.data.train_ds.micro_batch_size?",
        BASE, "++micro_batch_size=4");
    assert_refused("unknown key 'global_batchsize'; did you mean model.data.train_ds.global_batch_size?", BASE,
                   "++global_batchsize=4");
    assert_refused("unknown key 'input'; did you mean the option --input?", BASE, "input=4");
    assert_refused("unknown option --inptu; did you mean --input?", BASE, "--inptu=x");
    assert_refused("--model.optim.lr: 'model.optim.lr' is a configuration key: write ++model.optim.lr=VALUE", BASE,
                   "--model.optim.lr=1");
    assert_refused("unknown option -z", BASE, "-z");
    assert_refused("--input needs a value: write --input=VALUE", BASE, "--input");
    assert_refused("--input needs a value: write --input=VALUE; found the option --force", BASE, "--input", "--force");
    assert_refused("'word' is not an option: settings are written key=value, options --name value", BASE, "word");
    assert_refused("--json takes no value", BASE, "--json=1");
    assert_refused("missing: ++model.restore_from_path=... (base model) (see `ns try --help`)", "--force");
    assert_refused("would be a sweep over several runs", BASE, "++model.optim.betas=0.9,0.98");
    assert_refused("already set (override ++name=x)", BASE, "++name=x", "+name=y");
}

static void wrong_values(void **state)
{
    (void)state;
    assert_refused("trainer.sft.max_epochs must be an integer from 1 to 1000000, found the string 'two' (override "
                   "++trainer.sft.max_epochs=two)",
                   BASE, "++trainer.sft.max_epochs=two");
    assert_refused("trainer.sft.max_epochs must be an integer from 1 to 1000000, found the integer '0'", BASE,
                   "++trainer.sft.max_epochs=0");
    assert_refused("trainer.sft.max_epochs must be an integer from 1 to 1000000, found the float '1.5'", BASE,
                   "++trainer.sft.max_epochs=1.5");
    assert_refused("trainer.sft.max_epochs must be an integer from 1 to 1000000, found null", BASE,
                   "++trainer.sft.max_epochs=null");
    assert_refused("--num_workers must be an integer from 1 to 64, found '65'", BASE, "--num_workers=65");
    assert_refused("--num_workers must be an integer from 1 to 64, found 'many'", BASE, "--num_workers=many");
    assert_refused("--rate must be a number from 0.0 to 1.0, found 'nan'", BASE, "--rate=nan");
    assert_refused("--kind must be one of sft, dpo, rm, found 'ppo'", BASE, "--kind=ppo");
    assert_refused("--force must be true or false, found 'maybe'", BASE, "--force=maybe");
    assert_refused("trainer.precision must be one of bf16, bf16-mixed, 16, 32, found the string 'fp8'", BASE,
                   "++trainer.precision=fp8");
    assert_refused("name must be a text, found the list '['a']'", BASE, "++name=[a]");
    assert_refused("model.data.train_ds.file_names must be a list, found the map", BASE,
                   "++model.data.train_ds.file_names={a:1}");
    assert_refused("override model=3: 'model' is a group of settings and cannot be the integer '3'", BASE, "model=3");
    assert_refused("name: override ++name=${nothing}: name: ${nothing} names a key that does not exist", BASE,
                   "++name=${nothing}");
}

static char log_text[1024];
static void keep_log(ns_log_level level, const char *line, void *user)
{
    (void)level, (void)user;
    snprintf(log_text, sizeof log_text, "%s", line);
}

static void compatibility_notes(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_parsed p;
    log_text[0] = 0;
    ns_log_set_sink(keep_log, NULL);
    assert_ns_ok(PARSE(&verb, &p, &err, BASE, "++model.data.train_ds.shuffle=true"), &err);
    ns_parsed_free(&p);
    assert_string_equal(log_text, "");
    assert_ns_ok(PARSE(&verb, &p, &err, BASE, "++model.data.train_ds.shuffle=false"), &err);
    ns_parsed_free(&p);
    ns_log_set_sink(NULL, NULL);
    assert_non_null(strstr(log_text, "model.data.train_ds.shuffle=False is accepted for compatibility and changes "
                                     "nothing: training data is always shuffled"));
}

static void write_file(const char *dir, const char *name, const char *text)
{
    char path[4200];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void configuration_files(void **state)
{
    (void)state;
    char dir[256], arg[300], path[300];
    ns_error err = NS_ERROR_INIT;
    ns_parsed p;
    ns_test_tmpdir(dir, sizeof dir);
    write_file(dir, "my_sft.yaml",
               "defaults:\n- _self_\nhydra: {run: x}\nname: from-file\nmodel:\n  optim:\n    lr: 1e-4\n");
    write_file(dir, "typo.yaml", "name: x\nmodel:\n  optim:\n    lrr: 1e-4\n  seeed: 1\n");
    write_file(dir, "hydra.yaml", "defaults:\n- other\n");
    snprintf(arg, sizeof arg, "--config-path=%s", dir);
    snprintf(path, sizeof path, "%s/my_sft.yaml", dir);
    assert_ns_ok(PARSE(&verb, &p, &err, BASE, arg, "--config-name", "my_sft"), &err);
    assert_string_equal(((opts *)p.options)->name, "from-file");
    assert_true(((opts *)p.options)->lr == 1e-4);
    assert_int_equal(((opts *)p.options)->epochs, 2);
    ns_parsed_free(&p);
    assert_ns_ok(PARSE(&verb, &p, &err, "++name=word", BASE, "-cd", dir, "-cn=my_sft.yaml"), &err);
    assert_string_equal(((opts *)p.options)->name, "word"); /* words win over the file wherever they stand */
    ns_parsed_free(&p);
    assert_ns_ok(PARSE(&verb, &p, &err, BASE, "--config_name", path), &err);
    assert_string_equal(((opts *)p.options)->copy, "from-file");
    ns_parsed_free(&p);
    assert_ns_ok(PARSE(&verb, &p, &err, BASE, "--config-name=big"), &err);
    assert_int_equal(((opts *)p.options)->mbs, 8);
    ns_parsed_free(&p);
    assert_refused(
        "typo.yaml:4:10: unknown key 'model.optim.lrr'; did you mean model.optim.lr? (1 more unknown keys follow)",
        BASE, arg, "--config-name=typo");
    assert_refused("there is no configuration 'nope' (also not with .yaml) in /", BASE, arg, "--config-name=nope");
    assert_refused("built in: small, big", BASE, "--config-name=nope");
    assert_refused("add --config-name=NAME", BASE, arg);
    assert_ns_fails(PARSE(&verb, &p, &err, BASE, arg, "-cn", "hydra"), NS_ERR_UNSUPPORTED,
                    "'defaults' that include other files are not supported", &err);
    static const char *const names[] = {"my_sft.yaml", "typo.yaml", "hydra.yaml"};
    for (size_t i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        unlink(path);
    }
    rmdir(dir);
}

static void open_configuration(void **state)
{
    (void)state;
    static const char *const own[] = {
        "base", "mine:\n  a: 1\nname: ${mine.a}-x\nexp_manager:\n  wandb_logger_kwargs: {name: q}\n", NULL};
    ns_verb v = verb;
    v.open_config = 1;
    v.builtin_configs = own;
    v.default_config = "base";
    ns_error err = NS_ERROR_INIT;
    ns_parsed p;
    assert_ns_ok(PARSE(&v, &p, &err, BASE, "++mine.a=5", "++mine.b=6"), &err);
    assert_string_equal(((opts *)p.options)->name, "5-x");
    ns_parsed_free(&p);
    assert_ns_fails(PARSE(&v, &p, &err, BASE, "exp_manager.wandb_logger_kwargs.nam=5"), NS_ERR_CONFIG,
                    "did you mean exp_manager.wandb_logger_kwargs.name?", &err);
    assert_ns_fails(PARSE(&v, &p, &err, BASE, "++mien.a=5"), NS_ERR_CONFIG, "unknown key 'mien.a'", &err);
    assert_ns_fails(PARSE(&v, &p, &err, BASE, "++model.optim.x=5"), NS_ERR_CONFIG, "unknown key 'model.optim.x'", &err);
}

static void positional_and_kept_words(void **state)
{
    (void)state;
    static const ns_option few[] = {{.key = "cluster", .flag = 1, .type = NS_OPT_STRING, AT(input)},
                                    {.key = "run_after", .flag = 1, .type = NS_OPT_LIST, AT(after)}};
    ns_verb v = {.name = "words", .options = few, .n_options = 2, .options_size = sizeof(opts), .allow_positional = 1};
    ns_error err = NS_ERROR_INIT;
    ns_parsed p;
    assert_ns_ok(
        PARSE(&v, &p, &err, "a", "--cluster=c", "b=c.jsonl", "--run_after", "x", "d", "-", "--", "--e", "++f=1"), &err);
    assert_int_equal(p.n_positional, 6);
    assert_string_equal(p.positional[1], "b=c.jsonl");
    assert_string_equal(p.positional[4], "--e");
    assert_int_equal(((opts *)p.options)->after.n, 1);
    ns_parsed_free(&p);
    v.allow_positional = 2;
    assert_ns_ok(PARSE(&v, &p, &err, "--cluster=c", "python", "-m", "x", "--cluster=inner", "++a=b"), &err);
    assert_int_equal(p.n_positional, 5);
    assert_string_equal(((opts *)p.options)->input, "c");
    ns_parsed_free(&p);
    v.allow_positional = 0;
    v.keep_overrides = 1;
    assert_ns_ok(PARSE(&v, &p, &err, "++a.b=[1,2]", "--cluster=c", "x=1,2", "~y"), &err);
    assert_int_equal(p.n_overrides, 3);
    assert_string_equal(p.overrides[1], "x=1,2");
    ns_parsed_free(&p);
    v.keep_overrides = 0;
    assert_ns_fails(PARSE(&v, &p, &err, "++a=1"), NS_ERR_CONFIG, "'++a=1': ns words has no configuration keys", &err);
}

static void help_and_markdown(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_buf b = {0};
    assert_ns_ok(ns_options_help(&b, &verb, &err), &err);
    assert_non_null(strstr(
        b.data,
        "ns try: a verb for tests\n\nUsage: ns try ++model.restore_from_path=DIR\n\nExamples:\n  ns try ++model"));
    assert_non_null(strstr(b.data, "  -w, --num_workers N             threads (default 4; an integer from 1 to 64)\n"));
    assert_non_null(strstr(b.data, "  --no-exclusive                  whole nodes (default true)\n"));
    assert_non_null(
        strstr(b.data, "  trainer.sft.max_epochs=N        passes (default 2; an integer from 1 to 1000000)\n"));
    assert_non_null(strstr(b.data, "base model (required)"));
    assert_non_null(strstr(b.data, "one of bf16, bf16-mixed, 16, 32"));
    assert_non_null(strstr(b.data, "Accepted for compatibility, without effect:\n  model.data.train_ds.shuffle\n"));
    assert_non_null(strstr(b.data, "small big"));
    ns_buf_clear(&b);
    assert_ns_ok(ns_options_markdown(&b, &verb, &err), &err);
    assert_non_null(strstr(b.data, "# ns try\n"));
    assert_non_null(strstr(b.data, "| `trainer.sft.max_epochs=N` | `2` | an integer from 1 to 1000000 | passes |\n"));
    assert_non_null(strstr(b.data, "no effect: training data is always shuffled |\n"));
    ns_buf_free(&b);
}

static void tables_check_themselves(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    assert_ns_ok(ns_options_check(&verb, &err), &err);
    ns_option bad[2] = {{.key = "a", .type = NS_OPT_INT, AT(workers), .def = "0", .min = 1, .max = 5},
                        {.key = "b", .type = NS_OPT_INT, AT(epochs), .def = "${a}"}};
    ns_verb v = {.name = "bad", .options = bad, .n_options = 2, .options_size = sizeof(opts)};
    assert_ns_fails(ns_options_check(&v, &err), NS_ERR_INTERNAL,
                    "ns bad: the default of 'a' breaks its own rule: a must be an integer from 1 to 5, found the "
                    "integer '0' (default)",
                    &err);
    bad[0].def = "3";
    bad[1].def = "${c}";
    assert_ns_fails(ns_options_check(&v, &err), NS_ERR_INTERNAL, "${c} names a key that does not exist", &err);
    bad[1].key = "a";
    assert_ns_fails(ns_options_check(&v, &err), NS_ERR_INTERNAL, "option 'a' stands in the table twice", &err);
    bad[1] = (ns_option){.key = "x", .flag = 1, .type = NS_OPT_LIST, .at = sizeof(opts) - 8};
    assert_ns_fails(ns_options_check(&v, &err), NS_ERR_INTERNAL, "option 'x' is stored past the end of the struct",
                    &err);
    static const char *const wrong[] = {"one", "a: 9\n", NULL};
    v.n_options = 1;
    v.builtin_configs = wrong;
    assert_ns_fails(ns_options_check(&v, &err), NS_ERR_INTERNAL,
                    "ns bad --config-name one: a must be an integer from 1 to 5", &err);
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    uint64_t before = ns_mem_get_stats().bytes_now;
    int n = 1;
    for (; n < 10000; n++) {
        ns_error err = NS_ERROR_INIT;
        ns_parsed p;
        ns_mem_fail_at((uint64_t)n, 0);
        ns_status st = PARSE(&verb, &p, &err, BASE, "--run_after", "a", "b", "--config-name=small",
                             "++name=x-${model.optim.lr}", "+model.optim.sched={a: [1]}");
        int hit = ns_mem_fault_hit();
        ns_mem_fail_at(0, 0);
        if (st == NS_OK) ns_parsed_free(&p);
        assert_int_equal(ns_mem_get_stats().bytes_now, before);
        if (!hit) {
            assert_ns_ok(st, &err);
            break;
        }
        assert_int_equal(st, NS_ERR_MEMORY);
    }
    assert_true(n > 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(defaults),
                                       cmocka_unit_test(flags_in_all_spellings),
                                       cmocka_unit_test(help_wins),
                                       cmocka_unit_test(overrides_and_types),
                                       cmocka_unit_test(rows_that_take_anything),
                                       cmocka_unit_test(wrong_words),
                                       cmocka_unit_test(wrong_values),
                                       cmocka_unit_test(compatibility_notes),
                                       cmocka_unit_test(configuration_files),
                                       cmocka_unit_test(open_configuration),
                                       cmocka_unit_test(positional_and_kept_words),
                                       cmocka_unit_test(help_and_markdown),
                                       cmocka_unit_test(tables_check_themselves),
                                       cmocka_unit_test(every_allocation_may_fail)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
