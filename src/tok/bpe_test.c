/* The BPE core against a naive implementation of its definition, on random vocabularies; ties, unknown bytes, long words. */
#include "base/mem.h"
#include "base/testing.h"
#include "tok/bpe.h"

/* A model over the letters 'a'..'f' whose merges are random pairs of earlier tokens. */
typedef struct random_model {
    ns_bpe m;
    int n;             /* tokens: id i has text[i] */
    char text[64][40]; /* */
    int left[64], right[64], id[64], n_merges;
} random_model;

static uint32_t rng;
static uint32_t draw(uint32_t n)
{
    rng = rng * 1664525 + 1013904223;
    return (rng >> 8) % n;
}

static void build(random_model *r, int letters, int merges)
{
    ns_error err = NS_ERROR_INIT;
    int32_t clash;
    memset(r, 0, sizeof *r);
    assert_ns_ok(ns_bpe_init(&r->m, 64, 128, &err), &err);
    for (int i = 0; i < letters; i++) {
        r->text[r->n][0] = (char)('a' + i);
        assert_ns_ok(ns_bpe_add_token(&r->m, r->n, r->text[r->n], 1, NS_BPE_MAPPED, &clash, &err), &err);
        r->n++;
    }
    for (int k = 0; k < merges && r->n < 64; k++) {
        int a = (int)draw((uint32_t)r->n), b = (int)draw((uint32_t)r->n), id = -1;
        char joined[80];
        snprintf(joined, sizeof joined, "%s%s", r->text[a], r->text[b]);
        if (strlen(joined) >= 40) continue;
        for (int i = 0; i < r->n; i++)
            if (!strcmp(r->text[i], joined)) id = i;
        int seen = 0;
        for (int i = 0; i < r->n_merges; i++) seen |= r->left[i] == a && r->right[i] == b;
        if (seen) continue;
        if (id < 0) {
            id = r->n++;
            snprintf(r->text[id], sizeof r->text[id], "%s", joined);
            assert_ns_ok(ns_bpe_add_token(&r->m, id, joined, strlen(joined), NS_BPE_MAPPED, &clash, &err), &err);
            assert_int_equal(clash, -1);
        }
        r->left[r->n_merges] = a;
        r->right[r->n_merges] = b;
        r->id[r->n_merges] = id;
        ns_bpe_add_merge(&r->m, (uint32_t)r->n_merges, a, b, id);
        r->n_merges++;
    }
    assert_ns_ok(ns_bpe_seal(&r->m, &err), &err);
}

/* The definition: lowest rank anywhere, leftmost, until nothing merges. */
static size_t naive(const random_model *r, int *v, size_t n)
{
    for (;;) {
        int best = -1;
        size_t at = 0;
        for (int k = 0; k < r->n_merges && best < 0; k++)
            for (size_t i = 0; i + 1 < n; i++)
                if (v[i] == r->left[k] && v[i + 1] == r->right[k]) {
                    best = k;
                    at = i;
                    break;
                }
        if (best < 0) return n;
        v[at] = r->id[best];
        for (size_t i = at + 1; i + 1 < n; i++) v[i] = v[i + 1];
        n--;
    }
}

static void equals_the_definition(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_bpe_work w = {0};
    ns_ids ids = {0};
    random_model *r = malloc(sizeof *r);
    assert_non_null(r);
    rng = 7;
    for (int round = 0; round < 60; round++) {
        build(r, 2 + (int)draw(3), 40);
        for (int k = 0; k < 60; k++) {
            char word[400];
            int want[400];
            size_t n = 1 + draw(k % 3 == 0 ? 300 : 40), m; /* both sides of the short/long limit */
            uint32_t letters = 0;
            while (r->text[letters][1] == 0 && r->text[letters][0]) letters++;
            if (k % 6 == 0) n += 97; /* of few runs */
            uint32_t c = draw(letters);
            for (size_t i = 0; i < n; i++) {
                if (k % 6 || !draw(k % 12 ? 60 : 1000)) c = draw(letters);
                word[i] = (char)('a' + c);
                want[i] = word[i] - 'a';
            }
            m = naive(r, want, n);
            ids.n = 0;
            assert_ns_ok(ns_bpe_encode(&r->m, &w, &ids, (uint8_t *)word, n, &err), &err);
            assert_int_equal(ids.n, m);
            for (size_t i = 0; i < m; i++) assert_int_equal(ids.v[i], want[i]);
        }
        /* Each token as a word, twice: the second time from the remembered answer. */
        for (int t = 0; t < 2 * r->n; t++) {
            int want[64];
            size_t n = strlen(r->text[t / 2]), m;
            for (size_t i = 0; i < n; i++) want[i] = r->text[t / 2][i] - 'a';
            m = naive(r, want, n);
            ids.n = 0;
            assert_ns_ok(ns_bpe_encode(&r->m, &w, &ids, (uint8_t *)r->text[t / 2], n, &err), &err);
            assert_int_equal(ids.n, m);
            for (size_t i = 0; i < m; i++) assert_int_equal(ids.v[i], want[i]);
        }
        ns_bpe_free(&r->m);
    }
    free(r);
    ns_ids_free(&ids);
    ns_bpe_work_free(&w);
}

static void add(ns_bpe *m, int32_t id, const char *s)
{
    ns_error err = NS_ERROR_INIT;
    int32_t clash;
    assert_ns_ok(ns_bpe_add_token(m, id, s, strlen(s), NS_BPE_MAPPED, &clash, &err), &err);
    assert_int_equal(clash, -1);
}

static void encode_is(const ns_bpe *m, const char *s, const char *want)
{
    ns_bpe_work w = {0};
    ns_ids ids = {0};
    ns_error err = NS_ERROR_INIT;
    char got[256] = "";
    assert_ns_ok(ns_bpe_encode(m, &w, &ids, (const uint8_t *)s, strlen(s), &err), &err);
    for (size_t i = 0; i < ids.n; i++)
        snprintf(got + strlen(got), sizeof got - strlen(got), "%s%d", i ? " " : "", (int)ids.v[i]);
    assert_string_equal(got, want);
    ns_ids_free(&ids);
    ns_bpe_work_free(&w);
}

static void ignore_merges_and_unknown(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    for (int variant = 0; variant < 4; variant++) {
        ns_bpe m = {.ignore_merges = variant == 1};
        ns_ids ids = {0};
        ns_bpe_work w = {0};
        assert_ns_ok(ns_bpe_init(&m, 6, 1, &err), &err);
        add(&m, 0, "a");
        add(&m, 1, "b");
        add(&m, 2, "ab");
        add(&m, 3, "ba"); /* no merge makes it */
        add(&m, 5, "?");
        ns_bpe_add_merge(&m, 0, 0, 1, 2);
        m.unk = variant >= 2 ? 5 : -1;
        m.fuse_unk = variant == 3;
        assert_ns_ok(ns_bpe_seal(&m, &err), &err);
        encode_is(&m, "ab", "2");
        encode_is(&m, "ba", variant == 1 ? "3" : "1 0");
        encode_is(&m, "aba", "2 0");
        if (variant < 2)
            assert_ns_fails(ns_bpe_encode(&m, &w, &ids, (const uint8_t *)"axa", 3, &err), NS_ERR_INPUT, "byte 0x78",
                            &err);
        else
            encode_is(&m, "axxa", variant == 3 ? "0 5 0" : "0 5 5 0");
        ns_bpe_free(&m);
        ns_ids_free(&ids);
        ns_bpe_work_free(&w);
    }
}

static void clashes_are_reported(void **state)
{
    (void)state;
    ns_bpe m = {0};
    ns_error err = NS_ERROR_INIT;
    int32_t clash;
    assert_ns_ok(ns_bpe_init(&m, 4, 0, &err), &err);
    add(&m, 3, "a");
    assert_ns_ok(ns_bpe_add_token(&m, 3, "b", 1, NS_BPE_MAPPED, &clash, &err), &err);
    assert_int_equal(clash, 3);
    assert_ns_ok(ns_bpe_add_token(&m, 1, "a", 1, NS_BPE_MAPPED, &clash, &err), &err);
    assert_int_equal(clash, 3);
    assert_ns_ok(ns_bpe_add_token(&m, 1, "a", 1, NS_BPE_LITERAL, &clash, &err), &err);
    assert_int_equal(clash, -1);
    assert_int_equal(ns_bpe_find(&m, "a", 1), 3);
    assert_int_equal(ns_bpe_find(&m, "b", 1), -1);
    ns_bpe_free(&m);
}

/* Doubling merges over one letter: the heap makes a megabyte a matter of a second at most. */
static void a_megabyte_of_one_letter(void **state)
{
    (void)state;
    enum { N = 1 << 20, LEVELS = 10 };
    ns_bpe m = {0};
    ns_error err = NS_ERROR_INIT;
    ns_ids ids = {0};
    ns_bpe_work w = {0};
    char *a = malloc(N);
    assert_non_null(a);
    memset(a, 'a', N);
    assert_ns_ok(ns_bpe_init(&m, LEVELS + 1, LEVELS, &err), &err);
    for (int k = 0; k <= LEVELS; k++) {
        int32_t clash;
        assert_ns_ok(ns_bpe_add_token(&m, k, a, (size_t)1 << k, NS_BPE_MAPPED, &clash, &err), &err);
        if (k) ns_bpe_add_merge(&m, (uint32_t)k - 1, k - 1, k - 1, k);
    }
    assert_ns_ok(ns_bpe_seal(&m, &err), &err);
    assert_ns_ok(ns_bpe_encode(&m, &w, &ids, (uint8_t *)a, N - 1, &err), &err);
    assert_int_equal(ids.n, (N >> LEVELS) - 1 + LEVELS);
    assert_int_equal(ids.v[0], LEVELS);
    assert_int_equal(ids.v[ids.n - 1], 0);
    free(a);
    ns_ids_free(&ids);
    ns_bpe_work_free(&w);
    ns_bpe_free(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_the_definition),
        cmocka_unit_test(ignore_merges_and_unknown),
        cmocka_unit_test(clashes_are_reported),
        cmocka_unit_test(a_megabyte_of_one_letter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
