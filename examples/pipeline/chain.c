/* Chaining from C: train, then a command behind it, then wait. Built with ns (build/examples/chain); run it where a cluster file lies:
 *
 *     chain CLUSTER OUTPUT_DIR BASE_MODEL ROWS.jsonl [++key=value ...]
 *
 * Everything else that `ns train` and the other verbs take is written the same way. */
#include <ns/pipeline.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    if (argc < 5) {
        fprintf(stderr, "usage: chain CLUSTER OUTPUT_DIR BASE_MODEL ROWS.jsonl [++key=value ...]\n");
        return 2;
    }
    char cluster[512], output[1024], model[1024], rows[1024], after[600], list[1100], why[1024] = "";
    snprintf(cluster, sizeof cluster, "--cluster=%s", argv[1]);
    snprintf(output, sizeof output, "--output_dir=%s", argv[2]);
    snprintf(model, sizeof model, "--nemo_model=%s", argv[3]);
    snprintf(rows, sizeof rows, "--training_data=%s", argv[4]);

    const char *words[128] = {
        cluster,          output, model, rows, "--expname=chain-in-c", "--num_gpus=1", "--num_training_jobs=2",
        "--disable_wandb"};
    size_t n = 8;
    for (int i = 5; i < argc && n < 128; i++) words[n++] = argv[i];
    ns_experiment train, listing;
    if (ns_pipeline_submit(&train, "train", words, n, why, sizeof why)) {
        fprintf(stderr, "chain: %s\n", why);
        return 1;
    }
    printf("training: %s, %d jobs\n", train.id, train.n_jobs);

    snprintf(after, sizeof after, "--run_after=%s", train.id);
    snprintf(list, sizeof list, "%s/model-averaged-nemo", argv[2]);
    const char *const command[] = {cluster, "--expname=chain-in-c-list", after, "ls", "-l", list};
    if (ns_pipeline_submit(&listing, "run_cmd", command, 6, why, sizeof why)) {
        fprintf(stderr, "chain: %s\n", why);
        return 1;
    }
    int failed = 0;
    if (ns_pipeline_wait(listing.id, &failed, why, sizeof why)) {
        fprintf(stderr, "chain: %s\n", why);
        return 1;
    }
    printf("%s: %s\n", listing.id, failed ? "did not succeed" : "done");
    return failed != 0;
}
