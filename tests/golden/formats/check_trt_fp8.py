"""FP8 checkpoints for TensorRT-LLM: NVIDIA's own Model Optimizer (what TensorRT-LLM's quantize.py calls) writes one of the same model
and rows; ours must equal it. Dev-only Python: nvidia-modelopt 0.40 (runs on a processor), torch, transformers, safetensors.

    check_trt_fp8.py HF_DIR ROWS.jsonl TRT_DIR [OUT]

TRT_DIR: ns export HF_DIR TRT_DIR --convert_to trtllm --use_fp8 [--fp8_kv_cache] --calib_dataset ROWS.jsonl [--num_gpus N --num_nodes N]
HF_DIR in bf16, ROWS with "text". Compared, in every rank's file: names, types, shapes, bytes of all weights, scales of weights: equal;
scales of activations: within 2 % (five steps of bf16, whose arithmetic is in another order); config.json's quantization. Theirs is left in OUT: `ns export` and
`ns diff` read it, too. Different by design: their embedding is cut over ranks (use_parallel_embedding) and a tied head is not written."""

import copy
import json
import os
import shutil
import sys
import tempfile
import warnings

warnings.filterwarnings("ignore")
import modelopt.torch.quantization as mtq  # noqa: E402
import torch  # noqa: E402
from modelopt.torch.export import export_tensorrt_llm_checkpoint  # noqa: E402
from safetensors import safe_open  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

hf, rows, ours = sys.argv[1:4]
out = sys.argv[4] if len(sys.argv) > 4 else tempfile.mkdtemp() + "/theirs"
config = json.load(open(ours + "/config.json"))
tp, pp = config["mapping"]["tp_size"], config["mapping"]["pp_size"]
kv = config["quantization"]["kv_cache_quant_algo"] is not None
model = AutoModelForCausalLM.from_pretrained(hf, dtype=torch.bfloat16, attn_implementation="eager").eval()
texts = [json.loads(line)["text"] for line in open(rows)]
if os.path.exists(hf + "/tokenizer.json"):
    tokenizer = AutoTokenizer.from_pretrained(hf)
    ids = [tokenizer(x).input_ids[:512] for x in texts]
else:  # what transformers 5 makes of a tokenizer.model of Mistral drops the blank that sentencepiece puts in front
    import sentencepiece

    sp = sentencepiece.SentencePieceProcessor(model_file=hf + "/tokenizer.model")
    ids = [[sp.bos_id(), *sp.encode(x)][:512] for x in texts]
ids = [torch.tensor([x]) for x in ids]

how = copy.deepcopy(mtq.FP8_DEFAULT_CFG)
if kv:
    how["quant_cfg"].update(mtq.FP8_KV_CFG["quant_cfg"])
stdout, sys.stdout = sys.stdout, open(os.devnull, "w")
with torch.no_grad():
    mtq.quantize(model, how, forward_loop=lambda m: [m(x) for x in ids])
kind = "qwen" if model.config.model_type.startswith("qwen") else "llama"
if kind == "qwen":  # 0.40 ends its configuration with "not supported" for this one; weights and scales do not depend on it
    kind = "llama"
shutil.rmtree(out, ignore_errors=True)
with torch.inference_mode():
    export_tensorrt_llm_checkpoint(model, kind, torch.bfloat16, export_dir=out, inference_tensor_parallel=tp,
                                   inference_pipeline_parallel=pp)
sys.stdout = stdout
theirs = json.load(open(out + "/config.json"))
for key in ["quant_algo", "kv_cache_quant_algo", "exclude_modules"]:
    assert theirs["quantization"][key] == config["quantization"][key], (key, theirs["quantization"])

n_same = n_scales = 0
worst = 0.0
vocab = []
for r in range(tp * pp):
    a = safe_open(f"{ours}/rank{r}.safetensors", "pt")
    b = safe_open(f"{out}/rank{r}.safetensors", "pt")
    extra = set(a.keys()) ^ set(b.keys())
    assert extra <= ({"lm_head.weight"} if config["tie_word_embeddings"] else set()), extra
    for k in sorted(set(a.keys()) & set(b.keys())):
        x, y = a.get_tensor(k), b.get_tensor(k)
        assert x.dtype == y.dtype, (k, x.dtype, y.dtype)
        if k == "transformer.vocab_embedding.weight":
            vocab.append((x, y))
            continue
        assert x.shape == y.shape, (k, x.shape, y.shape)
        if k.endswith("activation_scaling_factor"):
            worst = max(worst, (x / y - 1).abs().item())
            n_scales += 1
        elif x.dtype == torch.float8_e4m3fn:
            assert torch.equal(x.view(torch.uint8), y.view(torch.uint8)), k
            n_same += 1
        else:
            assert torch.equal(x, y), k
            n_same += 1
x, y = vocab[0][0], torch.cat([y for _, y in vocab])[:config["vocab_size"]]
assert torch.equal(x, y), "embedding"
assert worst < 0.02, worst
print(f"{os.path.basename(hf)} tp {tp} pp {pp} kv {'fp8' if kv else 'off'}: modelopt's checkpoint: {n_same} tensors equal, embedding too; "
      f"{n_scales} scales of activations within {worst:.2%}")
