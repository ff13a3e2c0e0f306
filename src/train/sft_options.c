/* One row a setting: key, type, field, default, bounds, help (training.md §1.4). Rows marked COMPAT are accepted because
 * documented commands carry them, and say at start-up that they do nothing here. */
#include "train/sft_options.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "pack/packed.h"
#include "train/stop.h"

#define AT(f) offsetof(ns_sft_options, f)
#define STR(k, f, d, h)                                                   \
    {                                                                     \
        .key = k, .type = NS_OPT_STRING, .at = AT(f), .def = d, .help = h \
    }
#define INT(k, f, d, lo, hi, h)                                                              \
    {                                                                                        \
        .key = k, .type = NS_OPT_INT, .at = AT(f), .def = d, .min = lo, .max = hi, .help = h \
    }
#define FLT(k, f, d, lo, hi, h)                                                                \
    {                                                                                          \
        .key = k, .type = NS_OPT_FLOAT, .at = AT(f), .def = d, .min = lo, .max = hi, .help = h \
    }
#define BOOL(k, f, d, h)                                                \
    {                                                                   \
        .key = k, .type = NS_OPT_BOOL, .at = AT(f), .def = d, .help = h \
    }
#define NODE(k, f, d, h)                                                \
    {                                                                   \
        .key = k, .type = NS_OPT_NODE, .at = AT(f), .def = d, .help = h \
    }
#define COMPAT(k, d, h, note)                                                                         \
    {                                                                                                 \
        .key = k, .type = NS_OPT_NODE, .at = AT(compat), .def = d, .flags = NS_OPT_COMPAT, .help = h, \
        .compat_note = note                                                                           \
    }
#define NULLABLE(k, f, lo, hi, none, h)                                                            \
    {                                                                                              \
        .key = k, .type = NS_OPT_INT, .at = AT(f), .def = "null", .min = lo, .max = hi, .help = h, \
        .flags = NS_OPT_NULLABLE, .null_value = none                                               \
    }
#define BIG 9e15

#define DATA_ROWS(p, f, inherit)                                                                                      \
    INT("model.data." p ".global_batch_size", f.gbs, inherit("global_batch_size", "512"), 1, BIG,                     \
        "rows a step; packs a step with packed_sequence"),                                                            \
        INT("model.data." p ".micro_batch_size", f.mbs, inherit("micro_batch_size", "1"), 1, BIG,                     \
            "rows a forward pass"),                                                                                   \
        INT("model.data." p ".max_seq_length", f.max_seq_length, inherit("max_seq_length", "4096"), 2, BIG,           \
            "longer rows are truncated (counted and reported)"),                                                      \
        COMPAT("model.data." p ".min_seq_length", "1", "", "short rows are kept, as in the original"),                \
        BOOL("model.data." p ".add_eos", f.add_eos, inherit("add_eos", "false"),                                      \
             "append the tokenizer's EOS to each answer"),                                                            \
        BOOL("model.data." p ".add_bos", f.add_bos, inherit("add_bos", "false"),                                      \
             "put the tokenizer's BOS in front of each row"),                                                         \
        BOOL("model.data." p ".add_sep", f.add_sep, inherit("add_sep", "false"),                                      \
             "separator token between prompt and answer, sep_id"),                                                    \
        {.key = "model.data." p ".sep_id",                                                                            \
         .type = NS_OPT_INT,                                                                                          \
         .at = AT(f.sep_id),                                                                                          \
         .def = inherit("sep_id", "null"),                                                                            \
         .min = 0,                                                                                                    \
         .max = INT32_MAX,                                                                                            \
         .flags = NS_OPT_NULLABLE,                                                                                    \
         .null_value = -1,                                                                                            \
         .help = "id of the separator token, for add_sep"},                                                           \
        STR("model.data." p ".label_key", f.label_key, inherit("label_key", "output"),                                \
            "the field that is trained on"),                                                                          \
        STR("model.data." p ".truncation_field", f.truncation_field, inherit("truncation_field", "input"),            \
            "comma list of fields cut first"),                                                                        \
        STR("model.data." p ".prompt_template", f.prompt_template, inherit("prompt_template", "'{input}{output}'"),   \
            "row layout; must end in the label"),                                                                     \
        {.key = "model.data." p ".truncation_method",                                                                 \
         .type = NS_OPT_STRING,                                                                                       \
         .at = AT(f.truncation_method),                                                                               \
         .def = inherit("truncation_method", "right"),                                                                \
         .choices = "right|left|drop|error",                                                                          \
         .help = "rows over max_seq_length: the end that is cut, or drop them, or stop"},                             \
        BOOL("model.data." p ".packed_sequence", f.packed, inherit("packed_sequence", "false"),                       \
             "train on packs: file_path names pack files (X.npy), or rows, which are packed in memory"),              \
        BOOL("model.data." p ".drop_last", f.drop_last, p[0] == 't' ? "true" : "false", "drop the last short batch"), \
        COMPAT("model.data." p ".shuffle", p[0] == 't' ? "true" : "false", "",                                        \
               "training data is always shuffled, validation never"),                                                 \
        COMPAT("model.data." p ".memmap_workers", "2", "", "rows are read by one streaming reader"),                  \
        COMPAT("model.data." p ".index_mapping_dir", "null", "", "no index files are made"),                          \
        COMPAT("model.data." p ".hf_dataset", "true", "", "one reader serves all"),                                   \
        COMPAT("model.data." p ".pad_to_max_length", "false", "", "nothing is ever padded"),                          \
        COMPAT("model.data." p ".packed_sequence_return_cu_seqlen", "true", "", "segments are always kept apart"),    \
        COMPAT("model.data." p ".output_original_text", "false", "", "not used by training")

#define OWN(key, def) def
#define FROM_TRAIN(key, def) "${model.data.train_ds." key "}"

const ns_option ns_sft_option_table[NS_SFT_N_OPTIONS] = {
    STR("name", name, "megatron_gpt_sft", "run name"),
    {.key = "model.restore_from_path",
     .type = NS_OPT_STRING,
     .at = AT(restore_from),
     .def = "???",
     .flags = NS_OPT_MODEL | NS_OPT_REQUIRED,
     .help = "base model: Hugging Face folder, NeMo folder or .nemo file"},
    {.key = "model.tokenizer_path",
     .type = NS_OPT_STRING,
     .at = AT(tokenizer),
     .flags = NS_OPT_MODEL,
     .help = "tokenizer.json, its folder, or a name in the Hugging Face cache (default: the base model's)"},
    INT("trainer.num_nodes", num_nodes, "1", 1, 1e6, "nodes"),
    INT("trainer.devices", devices, "1", 1, 1e6, "ranks a node"),
    {.key = "trainer.accelerator",
     .type = NS_OPT_STRING,
     .at = AT(accelerator),
     .def = "auto",
     .choices = "auto|cpu|gpu",
     .help = "where to train; auto: a GPU if one opens (NS_ACCELERATOR too), gpu: only there"},
    {.key = "gpu",
     .flag = 1,
     .type = NS_OPT_STRING,
     .at = AT(plan_gpu),
     .def = "null",
     .choices = "null|h200",
     .flags = NS_OPT_NULLABLE,
     .help = "ns plan: memory and time on this GPU, which need not be here"},
    {.key = "trainer.precision",
     .type = NS_OPT_STRING,
     .at = AT(precision),
     .def = "bf16",
     .choices = "bf16|bf16-mixed|32|16|16-mixed",
     .help = "compute type; main weights are always kept to fp32"},
    INT("trainer.sft.max_epochs", max_epochs, "2", 1, 1e9, "passes over the data"),
    INT("trainer.sft.max_steps", max_steps, "-1", -1, BIG, "caps the number of steps; -1: no cap"),
    INT("trainer.sft.save_interval", save_interval, "1000", -1, BIG, "steps between checkpoints; <= 0: never save"),
    NODE("trainer.sft.val_check_interval", val_check_interval, "${trainer.sft.save_interval}",
         "steps (int) or fraction of an epoch (float); 0: never"),
    NODE("trainer.sft.limit_val_batches", limit_val_batches, "1",
         "global batches (int) or fraction (float; 1.0 = all)"),
    NODE("trainer.sft.limit_train_batches", limit_train_batches, "1.0", "shortens the epoch: int or float"),
    {.key = "trainer.sft.gradient_clip_val",
     .type = NS_OPT_FLOAT,
     .at = AT(clip),
     .def = "null",
     .flags = NS_OPT_NULLABLE,
     .null_value = 0,
     .help = "clip the global gradient norm; null or 0: no clipping"},
    INT("trainer.sft.num_checkpoints_to_save", num_checkpoints, "0", 0, 1e6,
        "save this many checkpoints, evenly spaced (0: use save_interval)"),
    STR("exp_manager.explicit_log_dir", log_dir, NULL, "where the run writes (default: exp_dir)"),
    STR("exp_manager.exp_dir", exp_dir, NULL, "where the run writes when explicit_log_dir is not set"),
    STR("exp_manager.name", exp_name, "${name}", "experiment name"),
    BOOL("exp_manager.create_wandb_logger", wandb, "false",
         "not available: metrics go to metrics.jsonl and TensorBoard"),
    BOOL("exp_manager.create_tensorboard_logger", tensorboard, "true", "write TensorBoard event files"),
    BOOL("exp_manager.resume_if_exists", resume, "true", "continue from the newest checkpoint in the log directory"),
    BOOL("exp_manager.resume_ignore_no_checkpoint", resume_ignore_missing, "true",
         "start from the base model when there is none"),
    STR("exp_manager.max_time_per_run", max_time, NULL, "D:H:M:S after which the run saves and ends"),
    INT("exp_manager.checkpoint_callback_params.save_top_k", save_top_k, "50", -1, 1e6,
        "checkpoints kept, best first; -1: all"),
    {.key = "exp_manager.checkpoint_callback_params.monitor",
     .type = NS_OPT_STRING,
     .at = AT(monitor),
     .def = "val_loss",
     .choices = "val_loss",
     .help = "what ranks checkpoints"},
    {.key = "exp_manager.checkpoint_callback_params.mode",
     .type = NS_OPT_STRING,
     .at = AT(mode),
     .def = "min",
     .choices = "min",
     .help = "lower is better"},
    STR("exp_manager.checkpoint_callback_params.filename", filename,
        "'${name}--{val_loss:.3f}-{step}-{consumed_samples}-{epoch}'", "checkpoint name"),
    INT("exp_manager.checkpoint_callback_params.keep_optimizer", keep_optimizer, "1", 0, 1e6,
        "named checkpoints that keep optimiser state"),
    BOOL("exp_manager.checkpoint_callback_params.async_save", async_save, "false",
         "a save copies the state to host memory beside the next step and writes it while training goes on (one rank)"),
    BOOL("exp_manager.checkpoint_callback_params.save_forced", save_forced_named, "false",
         "a save forced by time or signal also makes a named checkpoint, as the original"),
    INT("model.seed", seed, "1234", 0, 4294967295.0, "data order and dropout"),
    INT("model.tensor_model_parallel_size", tp, "1", 1, 1e6, "tensor parallel ranks"),
    INT("model.pipeline_model_parallel_size", pp, "1", 1, 1e6, "pipeline stages"),
    INT("model.context_parallel_size", cp, "1", 1, 1e6, "context parallel ranks"),
    {.key = "model.cp_comm_type",
     .type = NS_OPT_STRING,
     .at = AT(cp_comm),
     .def = "all_gather",
     .choices = "all_gather|p2p",
     .help =
         "with context parallel: keys and values are gathered, or travel a ring (p2p: two blocks at a time, exchanged "
         "during the computation)"},
    STR("model.resume_from_checkpoint", resume_from, NULL, "continue from this checkpoint"),
    FLT("model.hidden_dropout", hidden_dropout, "0.0", 0, 0.999, "dropout after attention and mlp"),
    FLT("model.attention_dropout", attention_dropout, "0.0", 0, 0.999, "dropout on attention probabilities"),
    FLT("model.ffn_dropout", ffn_dropout, "0.0", 0, 0.999, "dropout inside the mlp"),
    BOOL("model.fp8", fp8, "false",
         "matrix products of the layers in fp8, one scale a tensor (GPU from sm_89): e4m3, gradients e5m2"),
    BOOL("model.fp8_e4m3", fp8_e4m3, "false", "fp8: gradients in e4m3 too"),
    BOOL("model.fp8_hybrid", fp8_hybrid, "true", "fp8: gradients in e5m2, unless model.fp8_e4m3"),
    BOOL("model.fp8_use_split_accumulator", fp8_split, "false",
         "fp8: products of the backward sum in f32 registers (slower), not within the tensor cores, which keep fewer "
         "bits"),
    {.key = "model.activations_checkpoint_granularity",
     .type = NS_OPT_STRING,
     .at = AT(recompute),
     .def = "null",
     .choices = "null|full|selective",
     .flags = NS_OPT_NULLABLE,
     .help =
         "full: keep only each layer's input and recompute the rest; selective: recompute norms and activations, and "
         "whole layers only as far as memory demands"},
    {.key = "model.peft.peft_scheme",
     .type = NS_OPT_STRING,
     .at = AT(peft),
     .def = "none",
     .choices = "none|lora|sdlora",
     .help = "adapters"},
    COMPAT("model.data.chat", "false", "", "the form of the rows is detected, and named at start"),
    STR("model.data.chat_template", chat.tmpl, "auto",
        "chat rows: auto (the tokenizer folder's template, else a shipped layout), shipped, a name in the folder, or a "
        "file"),
    NODE("model.data.chat_template_kwargs", chat.kwargs, "null",
         "variables for the template, {enable_thinking: false}"),
    STR("model.data.chat_date", chat.date, NULL, "YYYY-MM-DD for templates that write today's date (default: today)"),
    {.key = "model.data.row_form",
     .type = NS_OPT_STRING,
     .at = AT(chat.form),
     .def = "auto",
     .choices = "auto|messages|sharegpt|alpaca|prompt_completion|template",
     .help = "form of the rows; auto: detected, each row its own"},
    {.key = "model.data.roles_to_train",
     .type = NS_OPT_LIST,
     .at = AT(chat.roles),
     .def = "[assistant]",
     .help = "chat rows: the turns of these roles are trained"},
    BOOL("model.data.mask_history", chat.mask_history, "false", "chat rows: train only the last trained turn of a row"),
    STR("model.data.tools_field", chat.tools_field, "tools",
        "chat rows: field with the tools of a row (list, or JSON text)"),
    BOOL("model.data.allow_double_bos", chat.allow_double_bos, "false",
         "chat rows: go on with two BOS tokens in front"),
    BOOL("model.data.allow_missing_end", chat.allow_missing_end, "false",
         "chat rows: go on although trained turns have no end token"),
    BOOL("model.data.allow_special_text", chat.allow_special_text, "false",
         "chat rows: text that spells a special token is read as the token"),
    {.key = "model.data.train_ds.file_path",
     .type = NS_OPT_STRING,
     .at = AT(train.file_path),
     .def = "???",
     .flags = NS_OPT_REQUIRED,
     .help = "training rows: JSONL (also .gz, .zst) or Parquet; or packs: NAME.npy for "
             "NAME.[input_ids|loss_mask|seq_start_id].npy"},
    STR("model.data.validation_ds.file_path", val.file_path, NULL,
        "validation rows, of the same kinds, or packs (default: the training rows)"),
    DATA_ROWS("train_ds", train, OWN),
    NULLABLE("model.data.train_ds.global_batch_examples", global_examples, 1, BIG, 0,
             "examples a step instead of global_batch_size: packs as many as hold about so many, rows exactly"),
    NULLABLE("model.data.train_ds.pack_size", pack.size, 2, 1 << 29, 0,
             "packed_sequence on rows: tokens of a pack (default: max_seq_length)"),
    {.key = "model.data.train_ds.packing_algorithm",
     .type = NS_OPT_STRING,
     .at = AT(pack.algorithm),
     .def = "null",
     .choices = "null|first_fit_shuffle|first_fit_decreasing|best_fit",
     .flags = NS_OPT_NULLABLE,
     .help = "packed_sequence on rows: as ns pack (default: first_fit_shuffle)"},
    NULLABLE("model.data.train_ds.packing_seed", pack.seed, 0, 4294967295.0, -1,
             "packed_sequence on rows: seed of the packing (default: 0, as ns pack)"),
    NULLABLE("model.data.train_ds.split_packing_length", pack.chunk, 1, 1e9, -1,
             "packed_sequence on rows: samples packed together at most (default: 100000, as ns pack)"),
    DATA_ROWS("validation_ds", val, FROM_TRAIN),
    {.key = "model.optim.name",
     .type = NS_OPT_STRING,
     .at = AT(optim_name),
     .def = "distributed_fused_adam",
     .choices = "distributed_fused_adam|mcore_distributed_optim|adamw|adam",
     .help = "AdamW under any of these names"},
    FLT("model.optim.lr", lr, "5e-6", 0, 1e3, "learning rate"),
    FLT("model.optim.weight_decay", weight_decay, "0.01", 0, 10, "decoupled weight decay"),
    FLT("model.optim.eps", eps, "1e-8", 0, 1, "Adam epsilon"),
    {.key = "model.optim.betas", .type = NS_OPT_LIST, .at = AT(betas), .def = "[0.9, 0.98]", .help = "Adam moments"},
    {.key = "model.optim.main_params_dtype",
     .type = NS_OPT_STRING,
     .at = AT(main_dtype),
     .def = "fp32",
     .choices = "fp32|bf16",
     .help = "main weights: fp32 (bit for bit, kept as bf16 and 16-bit remainder, 4 bytes), or the bf16 weights "
             "themselves, "
             "rounded stochastically (2 bytes)"},
    {.key = "model.optim.exp_avg_dtype",
     .type = NS_OPT_STRING,
     .at = AT(m_dtype),
     .def = "fp32",
     .choices = "fp32|bf16",
     .help = "first moment: fp32 (4 bytes), or bf16 rounded stochastically (2 bytes)"},
    {.key = "model.optim.exp_avg_sq_dtype",
     .type = NS_OPT_STRING,
     .at = AT(v_dtype),
     .def = "fp32",
     .choices = "fp32|bf16",
     .help = "second moment: fp32 (4 bytes), or bf16 rounded stochastically (2 bytes)"},
    {.key = "model.optim.sched.name",
     .type = NS_OPT_STRING,
     .at = AT(sched),
     .def = "CosineAnnealing",
     .choices = "CosineAnnealing|constant",
     .help = "learning-rate schedule"},
    INT("model.optim.sched.warmup_steps", warmup, "0", 0, BIG, "linear warm-up"),
    INT("model.optim.sched.constant_steps", constant, "0", 0, BIG, "steps at min_lr at the end"),
    INT("model.optim.sched.max_steps", sched_max_steps, "-1", -1, BIG, "length of the schedule; -1: the run's steps"),
    FLT("model.optim.sched.warmup_ratio", warmup_ratio, "-1", -1, 1,
        "warm-up as a share of the schedule, instead of warmup_steps"),
    FLT("model.optim.sched.constant_ratio", constant_ratio, "-1", -1, 1,
        "constant phase as a share of the schedule, instead of constant_steps"),
    FLT("model.optim.sched.min_lr", min_lr, "${model.optim.lr}", 0, 1e3,
        "final rate (default: the rate itself, i.e. constant)"),
    BOOL("model.optim.norm_weight_decay", norm_decay, "true", "norm weights are decayed, as in the original"),
    {.key = "sampler",
     .type = NS_OPT_STRING,
     .at = AT(sampler),
     .def = "global",
     .choices = "global|megatron",
     .help = "data order: independent of the layout, or the original's"},
    {.key = "loss",
     .type = NS_OPT_STRING,
     .at = AT(loss),
     .def = "token",
     .choices = "token|micro_batch",
     .help = "divide by the targets of the step, or mean of micro-batch means (original)"},
    BOOL("deterministic", deterministic, "true",
         "the same run gives the same bits; false: attention's gradient on a GPU sums in any order, faster"),
    BOOL("allow_masked_rows", allow_masked, "false",
         "go on whatever the shares of truncated, dropped, target-less and repeated rows"),
    FLT("max_truncated_share", max_truncated_share, "0.1", 0, 1,
        "stop before step 1 if more of the rows are truncated (listed in row_report.jsonl)"),
    FLT("max_dropped_share", max_dropped_share, "0.1", 0, 1, "the same for rows dropped by truncation_method=drop"),
    FLT("max_masked_share", max_masked_share, "0.01", 0, 1, "the same for rows without a trained token"),
    FLT("max_duplicate_share", max_duplicate_share, "0.5", 0, 1, "the same for rows that repeat an earlier row"),
    STR("isa", isa, "auto", "CPU level: auto, amx, avx512, f32, ref"),
    INT("threads", threads, "0", 0, 4096, "CPU threads; 0: all"),
    COMPAT("trainer.max_time", "null", "", "use exp_manager.max_time_per_run"),
    COMPAT("trainer.log_every_n_steps", "10", "", "metrics are written every step"),
    COMPAT("trainer.logger", "false", "", "metrics.jsonl and TensorBoard are always written"),
    COMPAT("trainer.enable_checkpointing", "false", "", "saving follows trainer.sft.save_interval"),
    COMPAT("trainer.use_distributed_sampler", "false", "", "see sampler"),
    INT("trainer.max_epochs", copy_epochs, "${trainer.sft.max_epochs}", -1, BIG, "must equal trainer.sft.max_epochs"),
    INT("trainer.max_steps", copy_steps, "${trainer.sft.max_steps}", -1, BIG, "must equal trainer.sft.max_steps"),
    COMPAT("exp_manager.wandb_logger_kwargs", "null", "", "wandb is not available"),
    COMPAT("exp_manager.create_checkpoint_callback", "true", "", "saving follows trainer.sft.save_interval"),
    COMPAT("exp_manager.checkpoint_callback_params.save_last", "true", "", "-last is always kept"),
    COMPAT("exp_manager.checkpoint_callback_params.save_nemo_on_train_end", "false", "",
           "ns average makes the final model"),
    COMPAT("exp_manager.checkpoint_callback_params.save_best_model", "false", "", "choose with ns average --steps"),
    COMPAT("exp_manager.checkpoint_callback_params.always_save_nemo", "false", "", "ns average makes the final model"),
    COMPAT("exp_manager.checkpoint_callback_params.model_parallel_size", "1", "", "any layout reads any checkpoint"),
    COMPAT("model.dist_ckpt_format", "zarr", "", "checkpoints are safetensors"),
    NODE("model.virtual_pipeline_model_parallel_size", vpp, "null", "not available: each stage has consecutive layers"),
    {.key = "plan.layouts",
     .type = NS_OPT_STRING,
     .at = AT(plan_layouts),
     .def = "null",
     .choices = "null|a100|h100|h200|b200",
     .flags = NS_OPT_NULLABLE,
     .help = "ns plan: the fastest layouts of trainer.devices x num_nodes such GPUs, predicted"},
    STR("trainer.trace", trace, NULL,
        "Chrome trace of compute and communication on all ranks (chrome://tracing), written at the end"),
    FLT("trainer.rank_dead_seconds", dead_s, "10", 1, 1e6, "a rank that is silent so long is lost, and all stop"),
    FLT("trainer.rank_hang_seconds", hang_s, "60", 1, 1e6,
        "a rank that stands still so long while others wait for it hangs, and all stop"),
    BOOL("model.sequence_parallel", sequence_parallel, "false",
         "with tensor parallel: norms and the residual stream are split by tokens (less memory, the same results)"),
    COMPAT("model.save_nemo_on_validation_end", "true", "", "no effect, as in the original"),
    COMPAT("model.sync_batch_comm", "false", "", "no effect"),
    COMPAT("model.megatron_amp_O2", "true", "", "main weights are always kept to fp32"),
    COMPAT("model.encoder_seq_length", "4096", "", "taken from the model"),
    INT("model.micro_batch_size", copy_mbs, "${model.data.train_ds.micro_batch_size}", -1, BIG,
        "must equal model.data.train_ds.micro_batch_size"),
    INT("model.global_batch_size", copy_gbs, "${model.data.train_ds.global_batch_size}", -1, BIG,
        "must equal model.data.train_ds.global_batch_size"),
    COMPAT("model.activations_checkpoint_method", "null", "", "full recomputation is by layer"),
    COMPAT("model.activations_checkpoint_num_layers", "null", "", "full recomputation covers all layers"),
    COMPAT("model.activations_checkpoint_layers_per_pipeline", "null", "", "full recomputation covers all layers"),
    COMPAT("model.answer_only_loss", "true", "", "only the answer is trained, always"),
    COMPAT("model.gradient_as_bucket_view", "true", "", "no effect"),
    COMPAT("model.seq_len_interpolation_factor", "null", "", "rope scaling comes from the model"),
    COMPAT("model.use_flash_attention", "null", "", "one attention serves all"),
    COMPAT("model.peft.restore_from_path", "null", "", "adapters are not available"),
    COMPAT("model.peft.lora_tuning", "null", "", "adapters are not available"),
    COMPAT("model.data.system_token", "null", "", "see model.data.chat_template"),
    COMPAT("model.data.chat_prompt_tokens", "null", "", "see model.data.chat_template"),
    COMPAT("model.data.sample", "false", "", "epochs are real epochs"),
    COMPAT("model.data.num_workers", "0", "", "rows are tokenised once at start"),
    COMPAT("model.data.dataloader_type", "single", "", "the only kind"),
    COMPAT("model.optim.bucket_cap_mb", "200", "", "no effect on one rank"),
    BOOL("model.optim.overlap_grad_sync", overlap_grads, "false",
         "gradients are reduced over data and context parallel ranks during the backward (the same bits)"),
    COMPAT("model.optim.use_precision_aware_optimizer", "false", "",
           "main_params_dtype, exp_avg_dtype, exp_avg_sq_dtype count"),
    COMPAT("model.optim.store_param_remainders", "true", "",
           "always, where main_params_dtype=fp32 and weights are bf16"),
    BOOL("model.optim.overlap_param_sync", overlap_params, "false",
         "updated weights are gathered during the next forward (the same bits)"),
    COMPAT("model.optim.contiguous_grad_buffer", "true", "", "no effect"),
};

static ns_status check_batches(const ns_sft_data_options *d, const char *which, ns_error *err)
{
    NS_FAIL_IF(d->gbs % d->mbs, NS_ERR_CONFIG,
               "model.data.%s.global_batch_size=%" PRId64 " is not divisible by micro_batch_size=%" PRId64
               " x 1 data-parallel rank: use %" PRId64 " or %" PRId64,
               which, d->gbs, d->mbs, d->gbs / d->mbs * d->mbs > 0 ? d->gbs / d->mbs * d->mbs : d->mbs,
               (d->gbs / d->mbs + 1) * d->mbs);
    int name = ns_packed_is_name(d->file_path);
    NS_FAIL_IF(name && !d->packed, NS_ERR_CONFIG,
               "model.data.%s.file_path=%s names pack files: set ++model.data.%s.packed_sequence=True", which,
               d->file_path, which);
    NS_FAIL_IF(d->packed && d->mbs != 1 && (name || !strcmp(which, "train_ds")), NS_ERR_CONFIG,
               "model.data.%s.micro_batch_size=%" PRId64 " with packed_sequence=True: a pack is a micro-batch, use 1",
               which, d->mbs);
    return NS_OK;
}

/* Settings of packing: which of them belong together. */
static ns_status check_packing(const ns_sft_options *o, ns_error *err)
{
    const struct {
        const char *key;
        int given;
    } own[] = {{"pack_size", o->pack.size > 0},
               {"packing_algorithm", o->pack.algorithm != NULL},
               {"packing_seed", o->pack.seed >= 0},
               {"split_packing_length", o->pack.chunk >= 0}};
    int name = ns_packed_is_name(o->train.file_path);
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) {
        NS_FAIL_IF(own[i].given && !o->train.packed, NS_ERR_CONFIG,
                   "model.data.train_ds.%s is of use only with ++model.data.train_ds.packed_sequence=True", own[i].key);
        NS_FAIL_IF(own[i].given && name, NS_ERR_CONFIG,
                   "model.data.train_ds.%s: %s is packed already; this setting packs rows (JSONL) in memory",
                   own[i].key, o->train.file_path);
    }
    if (o->global_examples == 0) return NS_OK;
    NS_FAIL_IF(!o->train.packed, NS_ERR_CONFIG,
               "model.data.train_ds.global_batch_examples without packed_sequence=True: rows are examples, set "
               "++model.data.train_ds.global_batch_size=%" PRId64,
               o->global_examples);
    NS_FAIL_IF(o->train.gbs != NS_SFT_DEFAULT_GBS, NS_ERR_CONFIG,
               "model.data.train_ds.global_batch_examples=%" PRId64 " and global_batch_size=%" PRId64
               ": set one of them",
               o->global_examples, o->train.gbs);
    NS_FAIL_IF(!name && o->pack.chunk >= 0, NS_ERR_CONFIG,
               "model.data.train_ds.split_packing_length with global_batch_examples: each step packs its own examples");
    NS_FAIL_IF(
        !name && !strcmp(o->loss, "micro_batch"), NS_ERR_CONFIG,
        "loss=micro_batch with global_batch_examples on rows: the packs of a step depend on the number of ranks; "
        "use loss=token, or pack files");
    return NS_OK;
}

/* Settings that the original keeps in two places: a copy that says something else is a conflict. */
static ns_status check_copy(int64_t copy, int64_t used, const char *copy_key, const char *key, ns_error *err)
{
    NS_FAIL_IF(copy != used, NS_ERR_CONFIG, "%s=%" PRId64 ", but %s=%" PRId64 ": set only %s", copy_key, copy, key,
               used, key);
    return NS_OK;
}

ns_status ns_sft_check(ns_sft_options *o, ns_error *err)
{
    NS_TRY(check_copy(o->copy_epochs, o->max_epochs, "trainer.max_epochs", "trainer.sft.max_epochs", err), "%s", "");
    NS_TRY(check_copy(o->copy_steps, o->max_steps, "trainer.max_steps", "trainer.sft.max_steps", err), "%s", "");
    NS_TRY(check_copy(o->copy_mbs, o->train.mbs, "model.micro_batch_size", "model.data.train_ds.micro_batch_size", err),
           "%s", "");
    NS_TRY(
        check_copy(o->copy_gbs, o->train.gbs, "model.global_batch_size", "model.data.train_ds.global_batch_size", err),
        "%s", "");
    NS_FAIL_IF(!o->train.file_path, NS_ERR_CONFIG,
               "model.data.train_ds.file_path is not set: name the training rows (JSONL or Parquet)");
    if (!o->val.file_path) o->val.file_path = o->train.file_path;
    if (!o->log_dir) o->log_dir = o->exp_dir;
    NS_FAIL_IF(!o->log_dir, NS_ERR_CONFIG, "exp_manager.explicit_log_dir is not set: name the output directory");
    NS_FAIL_IF(!strncmp(o->precision, "16", 2), NS_ERR_UNSUPPORTED,
               "trainer.precision=%s: fp16 is not available, use bf16 or 32", o->precision);
    NS_FAIL_IF(o->fp8_e4m3 && !o->fp8, NS_ERR_CONFIG, "%s",
               "model.fp8_e4m3=True without model.fp8: set ++model.fp8=True too");
    NS_FAIL_IF(o->fp8_split && !o->fp8, NS_ERR_CONFIG, "%s",
               "model.fp8_use_split_accumulator=True without model.fp8: set ++model.fp8=True too");
    NS_FAIL_IF(o->fp8 && !o->fp8_e4m3 && !o->fp8_hybrid, NS_ERR_CONFIG, "%s",
               "model.fp8=True with model.fp8_hybrid=False: choose the type of gradients, ++model.fp8_e4m3=True or "
               "++model.fp8_hybrid=True");
    NS_FAIL_IF(o->fp8 && !strcmp(o->precision, "32"), NS_ERR_CONFIG, "%s",
               "model.fp8=True with trainer.precision=32: use bf16");
    NS_FAIL_IF(strcmp(o->peft, "none"), NS_ERR_UNSUPPORTED,
               "model.peft.peft_scheme=%s: adapters are not available yet, use none", o->peft);
    NS_FAIL_IF(o->vpp && o->vpp->type != NS_NODE_NULL && !(o->vpp->type == NS_NODE_INT && o->vpp->i == 1),
               NS_ERR_UNSUPPORTED, "%s",
               "model.virtual_pipeline_model_parallel_size: interleaved stages are not available, use null; a pipeline "
               "fills better with more micro-batches: a larger global_batch_size or a smaller micro_batch_size");
    NS_FAIL_IF(o->wandb, NS_ERR_UNSUPPORTED,
               "exp_manager.create_wandb_logger=True: wandb is not available; metrics go to metrics.jsonl and "
               "TensorBoard (--disable_wandb)");
    NS_FAIL_IF(!o->train.drop_last, NS_ERR_CONFIG, "model.data.train_ds.drop_last=False is not possible for training");
    NS_FAIL_IF((o->train.add_sep && o->train.sep_id < 0) || (o->val.add_sep && o->val.sep_id < 0), NS_ERR_CONFIG,
               "add_sep=True: name the separator token's id with ++model.data.train_ds.sep_id=ID");
    NS_TRY(check_batches(&o->train, "train_ds", err), "%s", "batch sizes");
    NS_TRY(check_batches(&o->val, "validation_ds", err), "%s", "batch sizes");
    NS_TRY(check_packing(o, err), "%s", "packs");
    NS_FAIL_IF((o->warmup_ratio >= 0 && o->warmup > 0) || (o->constant_ratio >= 0 && o->constant > 0), NS_ERR_CONFIG,
               "model.optim.sched: give warmup_steps or warmup_ratio, constant_steps or constant_ratio, not both");
    NS_FAIL_IF(o->betas.n != 2, NS_ERR_CONFIG, "model.optim.betas: expected two numbers, found %zu", o->betas.n);
    o->beta1 = strtod(o->betas.v[0], NULL);
    o->beta2 = strtod(o->betas.v[1], NULL);
    NS_FAIL_IF(!(o->beta1 >= 0 && o->beta1 < 1 && o->beta2 >= 0 && o->beta2 < 1), NS_ERR_CONFIG,
               "model.optim.betas=[%s,%s]: both must lie in [0,1)", o->betas.v[0], o->betas.v[1]);
    NS_FAIL_IF(o->async_save && o->devices * o->num_nodes > 1, NS_ERR_UNSUPPORTED,
               "exp_manager.checkpoint_callback_params.async_save=True with %" PRId64
               " ranks: one rank only so far; several write at the same time, each its part: set it to False",
               o->devices * o->num_nodes);
    const int narrow = strcmp(o->main_dtype, "fp32") || strcmp(o->m_dtype, "fp32") || strcmp(o->v_dtype, "fp32");
    NS_FAIL_IF(strcmp(o->main_dtype, "fp32") && !strcmp(o->precision, "32"), NS_ERR_CONFIG,
               "model.optim.main_params_dtype=%s with trainer.precision=32: the weights themselves are fp32; use "
               "trainer.precision=bf16, or main_params_dtype=fp32",
               o->main_dtype);
    NS_FAIL_IF(narrow && o->tp > 1, NS_ERR_UNSUPPORTED,
               "optimiser state in bf16 (model.optim.main_params_dtype, exp_avg_dtype, exp_avg_sq_dtype) with "
               "model.tensor_model_parallel_size=%" PRId64 ": the rounding would depend on the layout; use fp32",
               o->tp);
    o->max_seconds = 0;
    if (o->max_time) NS_TRY(ns_stop_parse_limit(&o->max_seconds, o->max_time, err), "%s", "time limit");
    return NS_OK;
}
