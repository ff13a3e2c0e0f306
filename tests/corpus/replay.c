/* Main program for a fuzz target without a fuzzer: runs the target over every file of its corpus folder (NS_CORPUS, or
 * the files named on the command line), and over the empty input. Linked with x_fuzz.c into x_replay, run by `make test`
 * and by the sanitizer builds. A target reports a finding by crashing, so one that returns is one "ok". */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int run_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f || fseek(f, 0, SEEK_END) != 0) {
        perror(path);
        return 1;
    }
    long n = ftell(f);
    rewind(f);
    /* exactly n bytes from the heap: a sanitizer sees a read past the end */
    uint8_t *data = n > 0 ? malloc((size_t)n) : NULL;
    if (n < 0 || (n > 0 && (!data || fread(data, 1, (size_t)n, f) != (size_t)n))) {
        perror(path);
        free(data);
        fclose(f);
        return 1;
    }
    fclose(f);
    printf("     %s (%ld bytes)\n", path, n); /* the last line before a crash names the input */
    fflush(stdout);
    LLVMFuzzerTestOneInput(data, (size_t)n);
    free(data);
    return 0;
}

int main(int argc, char **argv)
{
    int bad = 0, count = 0;
    uint8_t none = 0;
    LLVMFuzzerTestOneInput(&none, 0);
    for (int i = 1; i < argc; i++, count++) bad |= run_file(argv[i]);
    struct dirent **list = NULL;
    int n = argc > 1 ? 0 : scandir(NS_CORPUS, &list, NULL, alphasort);
    if (n < 0) {
        printf("SKIP: no corpus folder %s\n", NS_CORPUS);
        n = 0;
    }
    for (int i = 0; i < n; i++) {
        char path[4096];
        if (list[i]->d_name[0] != '.') {
            snprintf(path, sizeof path, "%s/%s", NS_CORPUS, list[i]->d_name);
            bad |= run_file(path);
            count++;
        }
        free(list[i]);
    }
    free(list);
    printf("%s corpus of %d files\n", bad ? "not ok" : "ok", count);
    return bad;
}
