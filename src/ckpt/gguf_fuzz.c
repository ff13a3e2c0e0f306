/* Any bytes as a GGUF file: parsed, its record made, every tensor's last row read. */
#include "base/mem.h"
#include "ckpt/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ns_error err = NS_ERROR_INIT;
    ns_gguf *g = NULL;
    ns_arch a;
    if (ns_gguf_parse(&g, data, size, "fuzz", &err) != NS_OK) return 0;
    ns_archive hf;
    ns_archive_init(&hf, "fuzz");
    if (ns_gguf_arch(&a, g, &err) == NS_OK && ns_gguf_read(&hf, g, &a, &err) == NS_OK) {
        for (size_t i = 0; i < hf.n; i++) {
            ns_arc_tensor *t = &hf.t[i];
            float *row = NULL;
            int64_t cols = t->nd == 2 ? t->shape[1] : 1;
            ns_error why = NS_ERROR_INIT;
            if (t->nd > 2 || t->n == 0 || cols > 1 << 20) continue;
            if (ns_alloc((void **)&row, (size_t)cols * sizeof *row, "fuzz", &why) == NS_OK)
                (void)!ns_archive_rows(t, -1, t->shape[0] - 1, 1, row, &why);
            ns_free(row);
        }
    }
    ns_archive_free(&hf);
    ns_gguf_close(&g);
    return 0;
}
