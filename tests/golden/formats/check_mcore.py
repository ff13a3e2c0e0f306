"""megatron-core's own distributed checkpoints, both ways. Dev-only Python: torch, megatron-core.

    check_mcore.py NS HF_DIR NEMO_DIR OUT TP PP         (NEMO_DIR: ns export HF_DIR NEMO_DIR --convert_to nemo)

TP x PP processes make GPTModel (local layer spec), load NEMO_DIR with dist_checkpointing.load and save OUT with dist_checkpointing.save (torch_dist);
`ns diff HF_DIR OUT` then says whether every value is the same."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import types

import torch
import torch.multiprocessing as mp


def rank_main(rank, hf, nemo, out, tp, pp):
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29617", RANK=str(rank), WORLD_SIZE=str(tp * pp), LOCAL_RANK=str(rank))
    torch.distributed.init_process_group("gloo", rank=rank, world_size=tp * pp)
    from megatron.core import dist_checkpointing, parallel_state, tensor_parallel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.models.gpt.gpt_model import GPTModel
    from megatron.core.transformer.transformer_config import TransformerConfig

    parallel_state.initialize_model_parallel(tp, pp)
    torch.cuda.current_device = lambda: "cpu"
    torch.cuda.synchronize = lambda *a: None
    tensor_parallel.get_cuda_rng_tracker = lambda: types.SimpleNamespace(fork=contextlib.nullcontext)
    c = json.load(open(hf + "/config.json"))
    nh = c["num_attention_heads"]
    qwen3 = c["model_type"] == "qwen3"
    tc = TransformerConfig(
        num_layers=c["num_hidden_layers"], hidden_size=c["hidden_size"], ffn_hidden_size=c["intermediate_size"],
        num_attention_heads=nh, num_query_groups=c["num_key_value_heads"], kv_channels=c.get("head_dim") or c["hidden_size"] // nh,
        normalization="RMSNorm", layernorm_epsilon=c["rms_norm_eps"], gated_linear_unit=True,
        activation_func=torch.nn.functional.silu, add_bias_linear=False, add_qkv_bias=c["model_type"] == "qwen2",
        qk_layernorm=qwen3, hidden_dropout=0.0, attention_dropout=0.0, use_cpu_initialization=True, params_dtype=torch.bfloat16,
        pipeline_dtype=torch.bfloat16, bf16=True, tensor_model_parallel_size=tp, pipeline_model_parallel_size=pp,
        bias_activation_fusion=False, masked_softmax_fusion=False, apply_rope_fusion=False, persist_layer_norm=False,
        gradient_accumulation_fusion=False)
    net = GPTModel(config=tc, transformer_layer_spec=get_gpt_layer_local_spec(normalization="RMSNorm", qk_layernorm=qwen3),
                   vocab_size=c["vocab_size"], max_sequence_length=128, pre_process=parallel_state.is_pipeline_first_stage(),
                   post_process=parallel_state.is_pipeline_last_stage(), position_embedding_type="rope",
                   share_embeddings_and_output_weights=c.get("tie_word_embeddings", False)).bfloat16()
    state = {k: v for k, v in net.sharded_state_dict(prefix="model.").items() if not k.endswith("_extra_state")}
    got = dist_checkpointing.load(state, nemo + "/model_weights", validate_access_integrity=False)
    net.load_state_dict({k.removeprefix("model."): v for k, v in got.items()}, strict=False)
    state = {k: v for k, v in net.sharded_state_dict(prefix="model.").items() if not k.endswith("_extra_state")}
    if rank == 0:
        shutil.rmtree(out, ignore_errors=True)
        os.makedirs(out + "/model_weights")
        shutil.copy(nemo + "/model_config.yaml", out)
    torch.distributed.barrier()
    dist_checkpointing.save(state, out + "/model_weights", ("torch_dist", 1), validate_access_integrity=False)


if __name__ == "__main__":
    ns, hf, nemo, out, tp, pp = sys.argv[1:7]
    mp.spawn(rank_main, (hf, nemo, out, int(tp), int(pp)), nprocs=int(tp) * int(pp))
    d = subprocess.run([ns, "diff", hf, out], capture_output=True, text=True)
    print(f"{os.path.basename(hf)} tp {tp} pp {pp}: loaded and saved by megatron-core: {(d.stdout or d.stderr).strip().splitlines()[-1]}")
    sys.exit(d.returncode)
