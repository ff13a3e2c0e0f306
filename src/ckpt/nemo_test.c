/* NeMo containers written by torch, zarr and tar (tests/golden/formats) read as the Hugging Face models they were made of, bit for
 * bit; hostile and broken files; every allocation failing in turn. */
#include "ckpt/nemo.h"

#include <errno.h>
#include <unistd.h>

#include "base/file.h"
#include "base/testing.h"
#include "base/unpack.h"
#include "ckpt/model_source.h"
#include "ckpt/pickle.h"

#define GOLDEN NS_SOURCE_DIR "/tests/golden/formats"

typedef struct opened {
    ns_arena arena;
    ns_arch arch;
    ns_param_table table;
    ns_model_source src;
} opened;

static ns_status open_model(opened *o, const char *path, ns_error *err)
{
    memset(o, 0, sizeof *o);
    o->arena.label = "test";
    NS_TRY(ns_model_arch(&o->arch, path, err), "%s", "");
    NS_TRY(ns_param_table_build(&o->table, &o->arch, &o->arena, err), "%s", "");
    return ns_model_source_open(&o->src, path, &o->table, err);
}

static void close_model(opened *o)
{
    if (o->src.t) ns_model_source_close(&o->src);
    ns_arena_free(&o->arena);
}

static void assert_same(const char *hf, const char *nemo)
{
    ns_error err = NS_ERROR_INIT;
    char a_path[4096], b_path[4096];
    opened a, b;
    snprintf(a_path, sizeof a_path, GOLDEN "/hf/%s", hf);
    snprintf(b_path, sizeof b_path, GOLDEN "/nemo/%s", nemo);
    assert_ns_ok(open_model(&a, a_path, &err), &err);
    assert_ns_ok(open_model(&b, b_path, &err), &err);
    assert_int_equal(a.arch.family, b.arch.family);
    assert_int_equal(a.arch.tied, b.arch.tied);
    assert_int_equal(a.arch.rope, b.arch.rope);
    assert_true(a.arch.rope_factor == b.arch.rope_factor && a.arch.rope_theta == b.arch.rope_theta);
    assert_true(a.arch.norm_eps == b.arch.norm_eps);
    assert_string_equal(a.table.hash, b.table.hash);
    for (int i = 0; i < a.table.n_params; i++) {
        float x[4096], y[4096];
        int64_t n = a.table.params[i].rows * a.table.params[i].cols;
        assert_true(n <= 4096);
        assert_ns_ok(ns_model_source_read(&a.src, i, x, &err), &err);
        assert_ns_ok(ns_model_source_read(&b.src, i, y, &err), &err);
        if (memcmp(x, y, (size_t)n * sizeof *x)) fail_msg("%s: %s differs", nemo, a.table.params[i].name);
    }
    close_model(&a);
    close_model(&b);
}

static void reads_what_others_wrote(void **s)
{
    (void)s;
    assert_same("qwen2", "qwen2-torch_dist");
    assert_same("qwen3", "qwen3-torch_dist");
    assert_same("llama", "llama-zarr");
    assert_same("qwen2", "qwen2-legacy1");
    assert_same("qwen2", "qwen2-legacy4");
    assert_same("llama", "llama.nemo");
    if (ns_unpack_can("gzip")) assert_same("llama", "llama-gz.nemo");
    if (ns_unpack_can("gzip") && ns_unpack_can("zstd"))
        assert_same("llama", "llama-zarr-zip");
    else
        print_message("SKIP: this build lacks zlib or libzstd\n");
    if (ns_codec_has_blosc())
        assert_same("llama", "llama-zarr-blosc");
    else
        print_message("SKIP: libblosc is not here\n");
}

/* posix.system("touch FILE"): refused by name, and the file is not there. */
static void hostile_pickle_runs_nothing(void **s)
{
    (void)s;
    char dir[256], file[300], text[700];
    ns_error err = NS_ERROR_INIT;
    ns_arena a = NS_ARENA_INIT("test");
    ns_pk *root;
    ns_test_tmpdir(dir, sizeof dir);
    snprintf(file, sizeof file, "%s/ran", dir);
    static const char *const calls[] = {"posix\nsystem", "builtins\neval", "subprocess\nPopen",
                                        "os\nsystem",    "torch_evil\nx",  "builtins\ngetattr"};
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
        int n = snprintf(text, sizeof text,
                         "\x80\x02"
                         "c%s\nX",
                         calls[i]);
        char command[400];
        uint32_t k = (uint32_t)snprintf(command, sizeof command, "touch %s", file);
        memcpy(text + n, &k, 4);
        memcpy(text + n + 4, command, k);
        memcpy(text + n + 4 + k, "\x85R.", 3);
        assert_ns_fails(ns_pickle_parse(&root, &a, (unsigned char *)text, (size_t)n + 7 + k, "x.pt", &err),
                        NS_ERR_INPUT, "nothing was run", &err);
        assert_false(ns_path_exists(file));
    }
    ns_arena_free(&a);
    assert_ns_ok(ns_remove_tree(dir, &err), &err);
}

static void broken_pickles(void **s)
{
    (void)s;
    static const struct {
        const char *bytes;
        size_t n;
        const char *message;
    } cases[] = {
        {"", 0, "truncated"},
        {"\x80\x02", 2, "truncated"},
        {"\x80\x01N.", 4, "protocol"},
        {"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f"
         "a.",
         13, "truncated"}, /* a text of 2^63 - 1 bytes */
        {"\x80\x02X\xff\xff\xff\xff.", 8, "truncated"},
        {"\x80\x02"
         "0.",
         4, "too few"},
        {"\x80\x02t.", 4, "no mark"},
        {"\x80\x02h\x05.", 5, "never stored"},
        {"\x80\x02"
         "Nr\xff\xff\xff\xff.",
         9, "out of range"},
        {"\x80\x02NN.", 5, "2 values"},
        {"\x80\x02"
         "I1\n.",
         6, "opcode 0x49"},
        {"\x80\x02K\x01K\x02R.", 8, "not a name"},
    };
    ns_error err = NS_ERROR_INIT;
    ns_pk *root;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ns_arena a = NS_ARENA_INIT("test");
        assert_ns_fails(ns_pickle_parse(&root, &a, (const unsigned char *)cases[i].bytes, cases[i].n, "x", &err),
                        NS_ERR_INPUT, cases[i].message, &err);
        ns_arena_free(&a);
    }
}

/* A copy of a golden folder in which one file is changed. */
typedef struct copied {
    char dir[256];
} copied;

static void copy_model(copied *c, const char *name)
{
    char command[5000];
    ns_test_tmpdir(c->dir, sizeof c->dir);
    snprintf(command, sizeof command, "cp -r '" GOLDEN "/nemo/%s' '%s/m'", name, c->dir);
    assert_int_equal(system(command), 0);
}

static void write_at(const copied *c, const char *name, const void *p, size_t n)
{
    char path[512];
    ns_error err = NS_ERROR_INIT;
    snprintf(path, sizeof path, "%s/m/%s", c->dir, name);
    assert_ns_ok(ns_file_replace(path, p, n, &err), &err);
}

static void fails_with(const copied *c, ns_status want, const char *message)
{
    char path[512];
    ns_error err = NS_ERROR_INIT;
    opened o;
    snprintf(path, sizeof path, "%s/m", c->dir);
    ns_status st = open_model(&o, path, &err);
    for (int i = 0; st == NS_OK && i < o.table.n_params; i++) {
        float x[4096];
        st = ns_model_source_read(&o.src, i, x, &err);
    }
    close_model(&o);
    char text[2048];
    ns_error_text(&err, text, sizeof text);
    if (st != want || !strstr(text, message)) fail_msg("found '%s', expected '%s'", text, message);
}

/* 1: refused; 0: read, with the values of the model at `hf`. */
static int fails_or_same(const copied *c, const char *hf)
{
    char path[512];
    ns_error err = NS_ERROR_INIT, why = NS_ERROR_INIT;
    opened o, want;
    snprintf(path, sizeof path, "%s/m", c->dir);
    assert_ns_ok(open_model(&want, hf, &err), &err);
    ns_status st = open_model(&o, path, &why);
    for (int i = 0; st == NS_OK && i < o.table.n_params; i++) {
        float x[4096], y[4096];
        st = ns_model_source_read(&o.src, i, x, &why);
        if (st != NS_OK) break;
        assert_ns_ok(ns_model_source_read(&want.src, i, y, &err), &err);
        assert_memory_equal(x, y, (size_t)(o.table.params[i].rows * o.table.params[i].cols) * sizeof *x);
    }
    close_model(&o);
    close_model(&want);
    return st != NS_OK;
}

static void read_golden(ns_buf *b, const char *name)
{
    char path[4096];
    ns_error err = NS_ERROR_INIT;
    snprintf(path, sizeof path, GOLDEN "/nemo/%s", name);
    assert_ns_ok(ns_file_read(b, path, &err), &err);
}

static void damaged_folders(void **s)
{
    (void)s;
    copied c;
    ns_buf b = {0};
    ns_error err = NS_ERROR_INIT;
    char path[512];
    copy_model(&c, "qwen2-torch_dist");
    read_golden(&b, "qwen2-torch_dist/model_weights/.metadata");
    for (size_t n = 1; n < b.len; n += 41) { /* cut anywhere: an error, never a crash */
        write_at(&c, "model_weights/.metadata", b.data, n);
        fails_with(&c, NS_ERR_INPUT, "");
    }
    write_at(&c, "model_weights/.metadata", b.data, b.len);
    ns_buf_clear(&b);
    read_golden(&b, "qwen2-torch_dist/model_weights/__0_0.distcp");
    write_at(&c, "model_weights/__0_0.distcp", b.data, b.len / 2);
    fails_with(&c, NS_ERR_INPUT, "truncated");
    int caught = 0;
    for (size_t at = 0; at < b.len; at += 501) { /* one bit anywhere: noticed, or the values are the same (padding) */
        b.data[at] ^= 1;
        write_at(&c, "model_weights/__0_0.distcp", b.data, b.len);
        caught += fails_or_same(&c, GOLDEN "/hf/qwen2");
        b.data[at] ^= 1;
    }
    assert_true(caught > 5);
    snprintf(path, sizeof path, "%s/m/model_weights/__0_0.distcp", c.dir);
    assert_int_equal(unlink(path), 0);
    fails_with(&c, NS_ERR_INPUT, "is missing");
    assert_ns_ok(ns_remove_tree(c.dir, &err), &err);
    ns_buf_free(&b);
}

/* Reads views from first on, every step-th, the first one twice, in pieces of 3 rows; later: checksums are compared in the end. */
static ns_status read_some(const char *path, int first, int step, int later, ns_error *err)
{
    opened o;
    float x[4096];
    ns_status st = open_model(&o, path, err);
    if (st == NS_OK && later) st = ns_archive_check_later(&o.src.a, err);
    for (int v = first, again = 1; st == NS_OK && v < o.table.n_views; v += again ? 0 : step, again = 0)
        for (int64_t r = 0; st == NS_OK && r < o.table.views[v].rows; r += 3) {
            int64_t left = o.table.views[v].rows - r;
            ns_dtype dt = r % 2 ? NS_DTYPE_F32 : o.src.tensor[v]->dt;
            st = ns_model_source_rows_as(&o.src, v, r, left < 3 ? left : 3, dt, x, err);
        }
    if (st == NS_OK) st = ns_archive_check_now(&o.src.a, err);
    close_model(&o);
    return st;
}

/* Summed up while reading, or read for it in the end: the same damage is found as by reading everything twice. */
static void checksums_in_the_end(void **s)
{
    (void)s;
    copied c;
    ns_buf b = {0};
    ns_error err = NS_ERROR_INIT;
    char path[512];
    int caught = 0;
    copy_model(&c, "qwen2-torch_dist");
    snprintf(path, sizeof path, "%s/m", c.dir);
    read_golden(&b, "qwen2-torch_dist/model_weights/__0_0.distcp");
    assert_ns_ok(read_some(path, 0, 1, 1, &err), &err);
    assert_ns_ok(read_some(path, 2, 3, 1, &err), &err);
    for (size_t at = 0; at < b.len; at += 307) {
        ns_error x = NS_ERROR_INIT, y = NS_ERROR_INIT, z = NS_ERROR_INIT;
        b.data[at] ^= 4;
        write_at(&c, "model_weights/__0_0.distcp", b.data, b.len);
        ns_status want = read_some(path, 0, 1, 0, &x);
        assert_int_equal(read_some(path, 0, 1, 1, &y), want);
        assert_int_equal(read_some(path, 2, 3, 1, &z), want);
        if (want != NS_OK && strstr(x.msg, "checksum")) {
            assert_non_null(strstr(y.msg, "checksum"));
            caught++;
        }
        b.data[at] ^= 4;
    }
    assert_true(caught > 5);
    assert_ns_ok(ns_remove_tree(c.dir, &err), &err);
    ns_buf_free(&b);
}

static void damaged_zarr(void **s)
{
    (void)s;
    copied c;
    ns_error err = NS_ERROR_INIT;
    copy_model(&c, "llama-zarr");
#define ZARR(dtype, shape, chunks, compressor)                                \
    "{\"chunks\":" chunks ",\"compressor\":" compressor ",\"dtype\":\"" dtype \
    "\",\"fill_value\":null,\"filters\":null,"                                \
    "\"order\":\"C\",\"shape\":" shape ",\"zarr_format\":2}"
#define TRY(text, code, message)                                                                       \
    write_at(&c, "model_weights/model.decoder.final_layernorm.weight/.zarray", text, sizeof text - 1); \
    fails_with(&c, code, message)
    TRY(ZARR("bfloat16", "[16]", "[16]", "{\"id\":\"lz4\"}"), NS_ERR_UNSUPPORTED, "compressed with 'lz4' (known");
    TRY(ZARR("bfloat16", "[16]", "[16]", "{\"id\":7}"), NS_ERR_UNSUPPORTED, "compressed with 'unknown'");
    TRY(ZARR("<c8", "[16]", "[16]", "null"), NS_ERR_UNSUPPORTED, "dtype");
    TRY(ZARR("bfloat16", "[16]", "[0]", "null"), NS_ERR_INPUT, "size 0");
    TRY(ZARR("bfloat16", "[9223372036854775807]", "[1]", "null"), NS_ERR_INPUT, "range");
    TRY(ZARR("bfloat16", "[281474976710656,281474976710656]", "[1,1]", "null"), NS_ERR_INPUT, "range");
    TRY(ZARR("bfloat16", "[281474976710656]", "[1]", "null"), NS_ERR_INPUT, "2^20 chunks");
    TRY(ZARR("bfloat16", "[32]", "[32]", "null"), NS_ERR_INPUT, "expected 64");
    TRY(ZARR("bfloat16", "[16]", "[8]", "null"), NS_ERR_INPUT, "expected 16");
    TRY("{\"zarr_format\":3}", NS_ERR_UNSUPPORTED, "zarr format 3");
    assert_ns_ok(ns_remove_tree(c.dir, &err), &err);
    copy_model(&c, "llama-zarr");
    char path[600];
    snprintf(path, sizeof path, "%s/m/model_weights", c.dir);
    assert_ns_ok(ns_remove_tree(path, &err), &err);
    snprintf(path, sizeof path, "%s/m/model_weights/model.decoder.final_layernorm.weight", c.dir);
    assert_ns_ok(ns_mkdirs(path, &err), &err);
    write_at(&c, "model_weights/model.decoder.final_layernorm.weight/zarr.json", "{}", 2);
    fails_with(&c, NS_ERR_UNSUPPORTED, "zarr version 3");
    assert_ns_ok(ns_remove_tree(c.dir, &err), &err);
}

/* Compressed chunks: what is cut, lies about its size or is not what .zarray says is an error; no memory is taken on its word. */
static void damaged_chunks(void **s)
{
    (void)s;
    static const char *const codecs[] = {"zlib", "gzip", "zstd", "blosc"};
    ns_error err = NS_ERROR_INIT;
    for (int k = 0; k < 4; k++) {
        static const char *const norm = "model_weights/model.decoder.final_layernorm.weight";
        char name[200], text[400], path[512];
        ns_codec codec;
        ns_buf b = {0};
        copied c;
        if (ns_codec_find(&codec, codecs[k], "x", &err) != NS_OK) continue;
        copy_model(&c, k == 3 ? "llama-zarr-blosc" : "llama-zarr-zip");
        for (int chunk = 16; chunk >= 0;
             chunk -= 16) { /* the right size, then one that no file of this length can hold */
            snprintf(name, sizeof name, "%s/.zarray", norm);
            int n = snprintf(text, sizeof text,
                             "{\"chunks\":[%s],\"compressor\":{\"id\":\"%s\"},\"dtype\":\"bfloat16\","
                             "\"fill_value\":null,\"filters\":null,\"order\":\"C\",\"shape\":[16],\"zarr_format\":2}",
                             chunk ? "16" : "281474976710656", codecs[k]);
            write_at(&c, name, text, (size_t)n);
            snprintf(name, sizeof name, "%s/0", norm);
            write_at(&c, name, "not compressed, and 32 bytes long", 32);
            fails_with(&c, NS_ERR_INPUT, chunk ? "does not unpack to 32 bytes" : "cannot hold");
            write_at(&c, name, "", 0);
            fails_with(&c, NS_ERR_INPUT, chunk ? "does not unpack to 32 bytes" : "cannot hold");
        }
        assert_ns_ok(ns_remove_tree(c.dir, &err), &err);
        copy_model(&c, k == 3 ? "llama-zarr-blosc" : "llama-zarr-zip");
        static const char *const fc = "model_weights/model.decoder.layers.mlp.linear_fc1.weight/0.0.0";
        snprintf(path, sizeof path, "%s/m/%s", c.dir, fc);
        assert_ns_ok(ns_file_read(&b, path, &err), &err);
        for (size_t n = 0; n < b.len; n += 1 + b.len / 40) { /* cut anywhere */
            write_at(&c, fc, b.data, n);
            fails_with(&c, NS_ERR_INPUT, "does not unpack");
        }
        ns_buf_free(&b);
        assert_ns_ok(ns_remove_tree(c.dir, &err), &err);
    }
}

/* tar with one changed header byte range; the checksum is made right again. */
static void tar_case(const ns_buf *b, size_t at, const char *p, size_t n, const char *message)
{
    char dir[256], path[300];
    ns_error err = NS_ERROR_INIT;
    ns_tree *t = NULL;
    ns_buf copy = {0};
    ns_test_tmpdir(dir, sizeof dir);
    snprintf(path, sizeof path, "%s/x.nemo", dir);
    assert_ns_ok(ns_buf_add(&copy, b->data, b->len, &err), &err);
    memcpy(copy.data + at, p, n);
    char *h = copy.data + at / 512 * 512;
    unsigned sum = 0;
    for (int i = 0; i < 512; i++) sum += i >= 148 && i < 156 ? ' ' : (unsigned char)h[i];
    snprintf(h + 148, 8, "%06o", sum);
    h[155] = ' ';
    assert_ns_ok(ns_file_replace(path, copy.data, copy.len, &err), &err);
    assert_ns_fails(ns_tree_open(&t, path, &err), NS_ERR_INPUT, message, &err);
    assert_null(t);
    ns_buf_free(&copy);
    assert_ns_ok(ns_remove_tree(dir, &err), &err);
}

static void hostile_tar(void **s)
{
    (void)s;
    ns_buf b = {0};
    ns_error err = NS_ERROR_INIT;
    ns_tree *t = NULL;
    char dir[256], path[300];
    read_golden(&b, "llama.nemo");
    size_t file = 0; /* header of the first plain file */
    while (memcmp(b.data + file + 257, "ustar", 5) || b.data[file + 156] != '0') file += 512;
    tar_case(&b, file, "../evil", 8, "leads outside");
    tar_case(&b, file, "/etc/x", 7, "leads outside");
    tar_case(&b, file, "a/../../x", 10, "leads outside");
    tar_case(&b, file + 156, "2", 1, "link or device");
    tar_case(&b, file + 156, "1", 1, "link or device");
    tar_case(&b, file + 124, "77777777777", 11, "truncated");
    tar_case(&b, file + 124, "\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", 12, "truncated");
    ns_test_tmpdir(dir, sizeof dir);
    snprintf(path, sizeof path, "%s/x.nemo", dir);
    ns_buf twice = {0}; /* the first plain file once more, in front of all */
    size_t each = 512 + (strtoull(b.data + file + 124, NULL, 8) + 511) / 512 * 512;
    assert_ns_ok(ns_buf_add(&twice, b.data + file, each, &err), &err);
    assert_ns_ok(ns_buf_add(&twice, b.data, b.len, &err), &err);
    assert_ns_ok(ns_file_replace(path, twice.data, twice.len, &err), &err);
    assert_ns_fails(ns_tree_open(&t, path, &err), NS_ERR_INPUT, "is in the archive twice", &err);
    ns_buf_free(&twice);
    for (size_t n = 513; n + 10240 < b.len; n += 3001) {
        assert_ns_ok(ns_file_replace(path, b.data, n, &err), &err);
        assert_ns_fails(ns_tree_open(&t, path, &err), NS_ERR_INPUT, "truncated", &err);
    }
    assert_ns_ok(ns_remove_tree(dir, &err), &err);
    ns_buf_free(&b);
}

/* The same rules inside gzip; a file cut anywhere; a full disk. Nothing is left in TMPDIR. */
static void hostile_gzip(void **s)
{
    (void)s;
    char dir[256], path[300], plain[300], command[700];
    ns_buf b = {0};
    ns_error err = NS_ERROR_INIT;
    ns_tree *t = NULL;
    if (!ns_unpack_can("gzip")) skip();
    ns_test_tmpdir(dir, sizeof dir);
    snprintf(path, sizeof path, "%s/x.nemo", dir);
    snprintf(plain, sizeof plain, "%s/plain", dir);
    read_golden(&b, "llama-gz.nemo");
    for (size_t n = 3; n < b.len; n += 97) {
        assert_ns_ok(ns_file_replace(path, b.data, n, &err), &err);
        assert_ns_fails(ns_tree_open(&t, path, &err), NS_ERR_INPUT, "cut short", &err);
    }
    assert_ns_ok(ns_file_replace(path, b.data, b.len, &err), &err);
    ns_sys_fail_at("write", 1, ENOSPC);
    assert_ns_fails(ns_tree_open(&t, path, &err), NS_ERR_IO, "name a folder with room in TMPDIR", &err);
    ns_sys_fail_at(NULL, 0, 0);
    assert_ns_ok(ns_tree_open(&t, path, &err), &err);
    ns_tree_close(&t);
    ns_buf_clear(&b);
    read_golden(&b, "llama.nemo");
    size_t file = 0; /* header of the first plain file: its name becomes an escape, the checksum is made right again */
    while (memcmp(b.data + file + 257, "ustar", 5) || b.data[file + 156] != '0') file += 512;
    memcpy(b.data + file, "../evil", 8);
    unsigned sum = 0;
    for (int i = 0; i < 512; i++) sum += i >= 148 && i < 156 ? ' ' : (unsigned char)b.data[file + (size_t)i];
    snprintf(b.data + file + 148, 8, "%06o", sum);
    b.data[file + 155] = ' ';
    static const char *const says[] = {"leads outside", "no tar archive"};
    for (int i = 0; i < 2; i++) { /* then: gzip of something else */
        assert_ns_ok(ns_file_replace(plain, i ? b.data + file + 512 : b.data, b.len - (i ? file + 512 : 0), &err),
                     &err);
        snprintf(command, sizeof command, "gzip -c '%s' > '%s'", plain, path);
        assert_int_equal(system(command), 0);
        assert_ns_fails(ns_tree_open(&t, path, &err), NS_ERR_INPUT, says[i], &err);
    }
    assert_int_equal(unlink(path) | unlink(plain) | rmdir(dir), 0); /* nothing else lies there */
    ns_buf_free(&b);
}

static void faults(void **s)
{
    (void)s;
    static const char *const names[] = {"qwen2-torch_dist", "llama-zarr",     "qwen2-legacy4",
                                        "llama.nemo",       "llama-zarr-zip", "llama-gz.nemo"};
    for (size_t k = 0; k < sizeof names / sizeof names[0]; k++) {
        char path[4096];
        int hit = 1;
        snprintf(path, sizeof path, GOLDEN "/nemo/%s", names[k]);
        for (uint64_t n = 1; hit; n++) {
            ns_error err = NS_ERROR_INIT;
            opened o;
            ns_mem_fail_at(n, 0);
            ns_status st = open_model(&o, path, &err);
            hit = ns_mem_fault_hit();
            ns_mem_fail_at(0, 0);
            int line_only = k == 5 && st == NS_OK; /* unpacking goes on without its progress line */
            assert_true(hit && !line_only ? st == NS_ERR_MEMORY && err.code == NS_ERR_MEMORY : st == NS_OK);
            close_model(&o);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_what_others_wrote),
        cmocka_unit_test(hostile_pickle_runs_nothing),
        cmocka_unit_test(broken_pickles),
        cmocka_unit_test(damaged_folders),
        cmocka_unit_test(checksums_in_the_end),
        cmocka_unit_test(damaged_zarr),
        cmocka_unit_test(damaged_chunks),
        cmocka_unit_test(hostile_tar),
        cmocka_unit_test(hostile_gzip),
        cmocka_unit_test(faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
