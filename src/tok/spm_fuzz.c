/* Fuzz target for SentencePiece models: any bytes as tokenizer.model (the fuzzer's bytes are taken for a protobuf file also
 * when they look like JSON). Properties: fuzz_check.h. */
#include "tok/fuzz_check.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
    if (!size || (data[0] != 0x0a && data[0] != 0x12 && data[0] != 0x1a)) return 0;
    char *p = malloc(size); /* exact: a sanitizer sees reading past the end */
    memcpy(p, data, size);
    check_file(p, size, NULL, 0, NULL);
    free(p);
    return 0;
}
