/* Opening packs (pack_files.h). Everything is checked before a row is read: types, shapes that agree, the meta file. */
#include "pack/pack_files.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "data/hash.h"

const char *const ns_pack_suffix[NS_PACK_N_FILES] = {"input_ids", "loss_mask", "seq_start_id"};
const char *const ns_pack_descr[NS_PACK_N_FILES] = {"<i4", "|b1", "<i4"};

static void copy_text(char *out, size_t size, const ns_json *v)
{
    size_t n = v && v->type == NS_JSON_STRING ? v->s.n : 0;
    if (n >= size) n = size - 1;
    if (n) memcpy(out, v->s.p, n);
    out[n] = 0;
}

static ns_status read_meta(ns_pack_files *f, const char *prefix, ns_error *err)
{
    char path[4200];
    ns_arena a = NS_ARENA_INIT("packs.meta");
    ns_buf b = {0};
    ns_json *v;
    ns_status st = NS_OK;
    f->size = f->samples = f->tokens = -1;
    snprintf(path, sizeof path, "%s.meta.json", prefix);
    if (!ns_path_exists(path)) {
        NS_WARN("%s: packed by another program: pack size, tokenizer and padding cannot be compared", prefix);
        return NS_OK;
    }
    NS_CHECK(st, ns_file_read(&b, path, err), "meta");
    NS_CHECK(st, ns_json_parse(&v, &a, b.data ? b.data : "", b.len, path, 0, err), "meta");
    const ns_json *m = v->type == NS_JSON_OBJECT ? ns_json_get(v, "loss_mask") : NULL;
    NS_BAIL_IF(st,
               !m || m->type != NS_JSON_STRING || !ns_json_is_int(ns_json_get(v, "pack_size"), &f->size) ||
                   !ns_json_is_int(ns_json_get(v, "context_parallel_size"), &f->cp) ||
                   !ns_json_is_int(ns_json_get(v, "eos_id"), &f->eos),
               NS_ERR_INPUT, "%s: no pack_size, context_parallel_size, eos_id and loss_mask", path);
    copy_text(f->mask, sizeof f->mask, m);
    copy_text(f->tokenizer_hash, sizeof f->tokenizer_hash, ns_json_get(v, "tokenizer_hash"));
    copy_text(f->tokenizer_path, sizeof f->tokenizer_path, ns_json_get(v, "tokenizer"));
    if (!ns_json_is_int(ns_json_get(v, "samples"), &f->samples)) f->samples = -1;
    if (!ns_json_is_int(ns_json_get(v, "tokens"), &f->tokens)) f->tokens = -1;
done:
    ns_buf_free(&b);
    ns_arena_free(&a);
    return st;
}

ns_status ns_pack_files_open(ns_pack_files *f, const char *prefix, ns_error *err)
{
    char path[4200];
    ns_status st = NS_OK;
    memset(f, 0, sizeof *f);
    for (int k = 0; k < NS_PACK_N_FILES; k++) {
        snprintf(path, sizeof path, "%s.%s.npy", prefix, ns_pack_suffix[k]);
        NS_BAIL_IF(st, !ns_path_exists(path), NS_ERR_INPUT,
                   "%s: missing: a pack is three files, %s.[input_ids|loss_mask|seq_start_id].npy", path, prefix);
        NS_CHECK(st, ns_npy_open(&f->a[k], path, err), "%s", prefix);
        NS_BAIL_IF(st, f->a[k].item != (k == NS_PACK_MASK ? 1u : 4u), NS_ERR_INPUT, "%s: items %s, expected %s", path,
                   f->a[k].descr, ns_pack_descr[k]);
        NS_BAIL_IF(st, f->a[k].rows != f->a[0].rows, NS_ERR_MISMATCH,
                   "%s: %" PRId64 " rows, input_ids has %" PRId64 ": the three files do not belong together", path,
                   f->a[k].rows, f->a[0].rows);
        NS_BAIL_IF(st, (uintptr_t)f->a[k].data % f->a[k].item != 0, NS_ERR_UNSUPPORTED,
                   "%s: the data begin at a byte that is no multiple of 4: write the array again with numpy.save",
                   path);
    }
    NS_BAIL_IF(st, f->a[NS_PACK_MASK].cols != f->a[NS_PACK_IDS].cols, NS_ERR_MISMATCH,
               "%s: loss_mask is %" PRId64 " wide, input_ids %" PRId64 ": the files do not belong together", prefix,
               f->a[NS_PACK_MASK].cols, f->a[NS_PACK_IDS].cols);
    NS_CHECK(st, read_meta(f, prefix, err), "%s", prefix);
done:
    if (st != NS_OK) ns_pack_files_close(f);
    return st;
}

void ns_pack_files_close(ns_pack_files *f)
{
    for (int k = 0; k < NS_PACK_N_FILES; k++) ns_npy_close(&f->a[k]);
}

ns_status ns_pack_tokenizer_hash(char out[17], const ns_tok *tok, ns_error *err)
{
    static const char probe[] =
        "Natalia sold 48 clips, 1234567 in all; she'll  say: \"\xc3\xa9t\xc3\xa9\"\n\n\t(x+y)^2 = 4.";
    ns_buf b = {0};
    ns_ids ids = {0};
    ns_hash h = {{0, 0}};
    ns_status st = NS_OK;
    int64_t n = ns_tok_vocab_size(tok);
    for (int64_t i = 0; i < n; i++) {
        ns_error none = NS_ERROR_INIT; /* a number without a token is a fact of the vocabulary, too */
        int32_t id = (int32_t)i;
        ns_buf_clear(&b);
        if (ns_tok_decode(tok, &b, &id, 1, 0, &none) != NS_OK) ns_buf_clear(&b);
        h = ns_hash_bytes(h, b.data ? b.data : "", b.len);
    }
    NS_CHECK(st, ns_tok_encode(tok, &ids, probe, sizeof probe - 1, 0, err), "tokenizer");
    h = ns_hash_bytes(h, ids.v, ids.n * sizeof *ids.v);
    snprintf(out, 17, "%016" PRIx64, h.v[0] ^ (uint64_t)n);
done:
    ns_buf_free(&b);
    ns_ids_free(&ids);
    return st;
}
