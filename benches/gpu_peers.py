#!/usr/bin/env python3
"""The step of `openvalidators bench scoring --device cuda:0`, computed by torch and transformers on the same GPU.

    python3 benches/gpu_peers.py [actors/inference/src/synthetic/full.json]

Networks of the reference's sizes with random weights in bf16, 50 completions of 150 tokens behind a prompt of 600: completion
by completion, as openvalidators 1.2.0 scores them, and in padded batches with heads only where they are needed. BTLM is not
part of transformers; GPT-2 of its depth and width, which has as many weights, stands in its place. Prints a table.
"""
import json, sys, time

import torch
import transformers

PROMPT, OWN, COUNT = 600, 150, 50
STACK = json.load(open(sys.argv[1] if len(sys.argv) > 1 else "actors/inference/src/synthetic/full.json"))
torch.set_grad_enabled(False)
torch.set_default_dtype(torch.bfloat16)
torch.manual_seed(7)


def network(role):
    config = dict(STACK[role]["config"])
    if config["model_type"] == "btlm":
        width, layers, heads = config["n_embd"], config["n_layer"], config["n_head"]
        config = dict(model_type="gpt2", n_embd=width, n_layer=layers, n_head=heads, n_positions=2048,
                      vocab_size=config["vocab_size"], architectures=["GPT2LMHeadModel"])
    name = config["architectures"][0]
    kept = {key: value for key, value in config.items() if key not in ("model_type", "architectures", "auto_map")}
    config = transformers.AutoConfig.for_model(config["model_type"], **kept)
    config.num_labels = max(1, len(STACK[role]["config"].get("id2label", {"0": ""})))
    config.pad_token_id = config.pad_token_id if config.pad_token_id is not None else 0
    with torch.device("cuda"):
        return getattr(transformers, name)(config).eval(), config.vocab_size


def tokens(vocabulary, rows, length):
    return torch.randint(5, vocabulary - 100, (rows, length), device="cuda")


def fastest(work, times=3):
    work()
    best = float("inf")
    for _ in range(times):
        torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return best


def log_probabilities(model, ids, start, everywhere):
    logits = model(input_ids=ids).logits if everywhere else model.lm_head(model.transformer(ids).last_hidden_state[:, start - 1:])
    logits = logits[:, start - 1:-1] if everywhere else logits[:, :-1]
    return logits.float().log_softmax(-1).gather(2, ids[:, start:].unsqueeze(2)).mean(1).tolist()


def part(role, length, batch, prompt=0):
    model, vocabulary = network(role)
    ids = tokens(vocabulary, COUNT, length)
    if role == "dpo":
        one = lambda: [log_probabilities(model, row[None], PROMPT, True) for row in ids]
        many = lambda: [log_probabilities(model, rows, PROMPT, False) for rows in ids.split(batch)]
    else:
        answer = lambda rows: model(input_ids=rows)[0].float().mean(-1).tolist()
        one = lambda: [answer(row[None]) for row in ids]
        many = lambda: [answer(rows) for rows in ids.split(batch)]
    return fastest(one), fastest(many)


print(f"torch {torch.__version__}, transformers {transformers.__version__}, {torch.cuda.get_device_name()}, bf16\n")
print("| part | one by one, ms | padded batches, ms |\n|---|---|---|")
total = [0.0, 0.0]
for role, length, batch in [("dpo", PROMPT + OWN, 10), ("rlhf", PROMPT + OWN, 10), ("reciprocate", PROMPT + OWN + 10, 10),
                            ("relevance_bert", OWN, 50), ("relevance_mpnet", OWN, 50), ("nsfw", OWN, 50)]:
    try:
        times = part(role, length, batch)
    except Exception as error:  # one network that this version of transformers lacks costs a row
        print(f"| {role} | {type(error).__name__}: {str(error)[:120]} | |")
        continue
    finally:
        torch.cuda.empty_cache()
    total = [a + b for a, b in zip(total, times)]
    print(f"| {role} | {times[0] * 1e3:.0f} | {times[1] * 1e3:.0f} |", flush=True)
print(f"| together | {total[0] * 1e3:.0f} | {total[1] * 1e3:.0f} |")
