# python make_targets.py targets.json (with torch, transformers and peft): which modules PEFT adapts, and how, for many configurations.
import json, sys, warnings
import torch, peft
from transformers import LlamaConfig, LlamaForCausalLM
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer

warnings.simplefilter("ignore")

def model():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=12,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False))

base = model()
modules = []
for name, m in base.named_modules():
    if not name: continue
    if isinstance(m, torch.nn.Linear):
        modules.append([name, m.in_features, m.out_features, "output_head" if name == "lm_head" else "linear"])
    else:
        modules.append([name, 0, 0, "other"])
index = {m[0]: i for i, m in enumerate(modules)}

C = []
def case(**k): C.append(k)
case(target_modules=["q_proj", "v_proj"])
case(target_modules=["q_proj", "nothing"], r=4, lora_alpha=32)
case(target_modules=["self_attn.q_proj"], r=3, lora_alpha=7, use_rslora=True)
case(target_modules=["attn.q_proj"])
case(target_modules=["proj"])
case(target_modules=["_proj"])
case(target_modules=["layers.1.self_attn.q_proj"])
case(target_modules=["1.self_attn.q_proj"])
case(target_modules=["model.layers.3.mlp.up_proj", "o_proj"], layers_to_transform=[1, 11])
case(target_modules=["q_proj", "lm_head"])
case(target_modules=["q_proj", "lm_head"], layers_to_transform=[0])
case(target_modules=["lm_head"])
case(target_modules=["q_proj"], layers_to_transform=[1])
case(target_modules=["q_proj"], layers_to_transform=1)
case(target_modules=["q_proj"], layers_to_transform=[])
case(target_modules=["q_proj", "down_proj"], layers_to_transform=[0, 10, 11], layers_pattern="layers")
case(target_modules=["q_proj"], layers_to_transform=[2], layers_pattern=["h", "layers"])
case(target_modules=["q_proj"], layers_to_transform=[2], layers_pattern=["lay.*"])
case(target_modules=["q_proj"], layers_to_transform=[2], layers_pattern=["h"])
case(target_modules=["q_proj"], layers_to_transform=[2], layers_pattern=["model.layers"])
case(target_modules=["q_proj"], layers_to_transform=[2], layers_pattern=["odel.layers"])
case(target_modules=["q_proj"], layers_to_transform=[2], layers_pattern=[])
case(target_modules=["q_proj"], layers_to_transform=[2], layers_pattern="")
case(target_modules=["q_proj"], layers_pattern=["layers"])
case(target_modules="all-linear")
case(target_modules="All-Linear", r=2)
case(target_modules="all-linear", exclude_modules=["o_proj", "mlp.down_proj"])
case(target_modules="all-linear", exclude_modules=r".*\.(1|3|5)\..*")
case(target_modules="all-linear", rank_pattern={"q_proj": 2}, alpha_pattern={"down_proj": 5})
case(target_modules="all-linear", layers_to_transform=[1])
case(target_modules=["all-linear"])
case(target_modules=r".*\.q_proj")
case(target_modules=r".*q_proj|.*v_proj")
case(target_modules=r"q_proj")
case(target_modules=r".*\.q_")
case(target_modules=r"model\.layers\.\d\.self_attn\.[qk]_proj")
case(target_modules=r"model\.layers\.(?:0|1[01])\.mlp\.(gate|up)_proj")
case(target_modules=r".*(?<!q)_proj", exclude_modules=["down_proj"])
case(target_modules=r"^.*self_attn\.o_proj$")
case(target_modules=r"(?i).*\.Q_PROJ")
case(target_modules=r".*\.(\w)_proj")
case(target_modules=r".*\.mlp")
case(target_modules=r".*", exclude_modules=r".*")
case(target_modules=["q_proj"], exclude_modules=["layers.1.self_attn.q_proj"])
case(target_modules=["q_proj"], exclude_modules=["self_attn"])
case(target_modules=["q_proj"], exclude_modules=["q_proj"])
case(target_modules=["q_proj", "k_proj"], exclude_modules=["model.layers.2.self_attn.k_proj"])
case(target_modules=["q_proj", "k_proj"], exclude_modules=r".*\.1[01]\..*")
case(target_modules=["q_proj", "k_proj"], exclude_modules=r"k_proj")
case(target_modules=["q_proj", "k_proj"], exclude_modules=[])
case(target_modules=["q_proj"], exclude_modules="")
case(target_modules=["q_proj", "v_proj"], rank_pattern={"q_proj": 4}, lora_alpha=16)
case(target_modules=["q_proj", "v_proj"], rank_pattern={"q_proj": 4}, lora_alpha=16, use_rslora=True)
case(target_modules=["q_proj", "v_proj"], rank_pattern={"proj": 4})
case(target_modules=["q_proj", "v_proj"], rank_pattern={".*_proj": 4})
case(target_modules=["q_proj", "v_proj"], rank_pattern={"layers.1.self_attn.q_proj": 4, r"layers\.\d+\.self_attn\.v_proj": 2})
case(target_modules=["q_proj", "v_proj"], rank_pattern={"model.layers.11.self_attn.q_proj": 64})
case(target_modules=["q_proj", "v_proj"], rank_pattern={"^model.layers.0.self_attn.q_proj": 64})
case(target_modules=["q_proj", "v_proj"], rank_pattern={"^q_proj": 64})
case(target_modules=["q_proj", "v_proj"], rank_pattern={"q_proj$": 64})
case(target_modules=["q_proj", "v_proj"], rank_pattern={"q_proj|v_proj": 5})
case(target_modules=["q_proj", "v_proj"], rank_pattern={"z|.*": 5, "q_proj": 3, "a.*": 7})
case(target_modules=["q_proj", "v_proj"], rank_pattern={"v_proj": 5, "[qv]_proj": 3})
case(target_modules=["q_proj", "v_proj"], rank_pattern={"[qv]_proj": 5, "v_proj": 3}, alpha_pattern={"v_proj": 1.5, "[qv]_proj": 24})
case(target_modules=["q_proj", "v_proj"], alpha_pattern={"1.self_attn.q_proj": -4, "0.self_attn.q_proj": 0})
case(target_modules=["q_proj", "v_proj"], alpha_pattern={"self_attn.(q|v)_proj": 3}, rank_pattern={"nothing": 3})
case(target_modules=["q_proj", "v_proj"], lora_alpha=0.5, r=1, lora_dropout=0.25)
case(target_modules=["vproj"])
case(target_modules=[])
case(target_modules=["input_layernorm"])
case(target_modules=["self_attn"])
case(target_modules=r".*\.mlp\..*", layers_to_transform=[1])
case(target_modules=["q_proj"], r=0)
case(target_modules=["q_proj"], r=-1)
case(target_modules=["q_proj"], lora_dropout=1.5)
case(target_modules=["q_proj"], rank_pattern={"q_proj": 0})
case(target_modules=r"(.*q_proj")
case(target_modules=["q_proj"], rank_pattern={"(q_proj": 2})

# As text: the order of the patterns counts.
def text(k): return json.dumps({"peft_type": "LORA", **k})

out = []
for k in C:
    try:
        m = get_peft_model(model(), LoraConfig(**k))
        got = []
        for name, mod in m.base_model.model.named_modules():
            if isinstance(mod, LoraLayer):
                got.append([index[name], mod.r["default"], float(mod.lora_alpha["default"]), mod.scaling["default"]])
                A, B = mod.lora_A["default"].weight, mod.lora_B["default"].weight
                assert A.shape == (mod.r["default"], modules[index[name]][1]) and B.shape == (modules[index[name]][2], mod.r["default"])
        assert got
        out.append({"config": text(k), "targets": got})
    except Exception as e:
        print(json.dumps(k), "->", type(e).__name__, str(e)[:90])
        out.append({"config": text(k), "error": type(e).__name__})
with open(sys.argv[1], "w") as f:
    f.write('{"peft": "%s",\n"modules": [\n' % peft.__version__)
    f.write(",\n".join(json.dumps(m) for m in modules))
    f.write('\n],\n"cases": [\n')
    f.write(",\n".join(json.dumps(c) for c in out))
    f.write("\n]}\n")
