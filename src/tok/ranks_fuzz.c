/* Fuzz target for rank files: tiktoken lines (no family has few ranks, so that loading ends at the family at the latest) and
 * tekken.json. Properties: fuzz_check.h. */
#include "tok/fuzz_check.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
    char *p = malloc(size ? size : 1); /* exact: a sanitizer sees reading past the end */
    if (size) memcpy(p, data, size);
    check_file(p, size, NULL, 0, NULL);
    check_file(p, size, NULL, 0, "llama3.1");
    free(p);
    return 0;
}
