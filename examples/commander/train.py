"""Trains commander and writes it as a Hugging Face folder (float16 safetensors).

    pip install torch tokenizers
    python examples/commander/train.py toolkit/models/commander

A development tool: nothing that qedge installs needs it.  On two cores it takes some minutes.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from grammar import examples
from others import ROOMLESS_HELD_OUT, WHOLE_ROOM_HELD_OUT, others
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn

VOCABULARY, CONTEXT = 512, 96
DIM, LAYERS, HEADS, KV_HEADS, FFN = 128, 3, 4, 2, 320
HEAD = DIM // HEADS
END = "<|end|>"
# A command ends with a line feed; `qedge run` puts every prompt through a template marked so.
TURN = "{#- every prompt is a turn -#}{{ (messages[-1].content | trim | lower) + '\\n' }}"
OTHERS = 0.4  # of the training sentences are no command, or name no room
ROPE_BASE, NORM_EPS = 10000.0, 1e-5


def make_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        (f"{s}\n{a}" for s, a in examples("train", 20000, 0)), trainer
    )
    return tokenizer


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(DIM))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + NORM_EPS) * self.weight


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = Norm(), Norm()
        self.self_attn, self.mlp = nn.Module(), nn.Module()
        for name, width in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
            setattr(self.self_attn, f"{name}_proj", nn.Linear(DIM, width * HEAD, bias=False))
        self.self_attn.o_proj = nn.Linear(HEADS * HEAD, DIM, bias=False)
        self.mlp.gate_proj = nn.Linear(DIM, FFN, bias=False)
        self.mlp.up_proj = nn.Linear(DIM, FFN, bias=False)
        self.mlp.down_proj = nn.Linear(FFN, DIM, bias=False)

    def forward(self, x: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        batch, length, _ = x.shape
        attn, mlp = self.self_attn, self.mlp
        n = self.input_layernorm(x)

        def heads(projection: nn.Module, count: int) -> torch.Tensor:
            return projection(n).view(batch, length, count, HEAD).transpose(1, 2)

        q, k = (
            rotate(heads(p, c), turn)
            for p, c in ((attn.q_proj, HEADS), (attn.k_proj, KV_HEADS))
        )
        v = heads(attn.v_proj, KV_HEADS)
        k, v = (t.repeat_interleave(HEADS // KV_HEADS, 1) for t in (k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + attn.o_proj(mixed.transpose(1, 2).reshape(batch, length, HEADS * HEAD))
        n = self.post_attention_layernorm(x)
        return x + mlp.down_proj(F.silu(mlp.gate_proj(n)) * mlp.up_proj(n))


def rotate(x: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    cos, sin = (t[: x.shape[2]] for t in turn)
    low, high = x.chunk(2, -1)
    return x * cos + torch.cat((-high, low), -1) * sin


class Commander(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCABULARY, DIM)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm = Norm()
        angles = torch.outer(
            torch.arange(CONTEXT), ROPE_BASE ** (-torch.arange(0, HEAD, 2) / HEAD)
        ).repeat(1, 2)
        self.turn = angles.cos(), angles.sin()
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.05)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(x, self.turn)
        return self.norm(x) @ self.embed_tokens.weight.T


def mixed(count: int, seed: int) -> Iterator[tuple[str, str]]:
    """Training sentences: commands, and a share of what is none or names less; some end with a
    stop."""
    chance = random.Random(seed)
    commands, rest = examples("train", count, seed), others("train", count, seed)
    for _ in range(count):
        sentence, answer = next(rest if chance.random() < OTHERS else commands)
        yield sentence + (chance.choice(".!?") if chance.random() < 0.1 else ""), answer


def batches(tokenizer: Tokenizer, steps: int, size: int) -> torch.Tensor:
    """(steps, size, CONTEXT) ids, and -100 where nothing is to be learnt."""
    end = tokenizer.token_to_id(END)
    stream = mixed(steps * size, 1)
    for _ in range(steps):
        tokens = torch.full((size, CONTEXT), end)
        labels = torch.full((size, CONTEXT), -100)
        longest = 0
        for row in range(size):
            sentence, answer = next(stream)
            asked = tokenizer.encode(f"{sentence}\n").ids
            ids = [*asked, *tokenizer.encode(answer).ids, end][:CONTEXT]
            tokens[row, : len(ids)] = torch.tensor(ids)
            labels[row, len(asked) : len(ids)] = torch.tensor(ids[len(asked) :])
            longest = max(longest, len(ids))
        yield tokens[:, :longest], labels[:, :longest]


def exact(model: Commander, tokenizer: Tokenizer, held_out: Iterable[tuple[str, str]]) -> float:
    """Share of sentences whose whole answer is right, in float32."""
    end, right, count = tokenizer.token_to_id(END), 0, 0
    model.eval()
    with torch.no_grad():
        for sentence, answer in held_out:
            count += 1
            ids = tokenizer.encode(f"{sentence}\n").ids
            want = [*tokenizer.encode(answer).ids, end]
            # greedy decoding gives the answer exactly when every next token of it is the best
            logits = model(torch.tensor([[*ids, *want]]))[0, len(ids) - 1 : -1]
            right += logits.argmax(-1).tolist() == want
    model.train()
    return right / count


def held_out(count: int) -> list[Iterator[tuple[str, str]]]:
    """Commands, those that name no room or no device, and what is no command."""
    return [
        examples("held-out", count, 1),
        others("held-out", min(count, ROOMLESS_HELD_OUT), 1, "roomless"),
        others("held-out", min(count, WHOLE_ROOM_HELD_OUT), 1, "whole room"),
        others("held-out", count, 1, "none"),
    ]


def write(model: Commander, tokenizer: Tokenizer, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {
            f"model.{k}": v.detach().to(torch.float16).contiguous()
            for k, v in model.named_parameters()
        },
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    end = tokenizer.token_to_id(END)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": DIM,
        "intermediate_size": FFN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": CONTEXT,
        "vocab_size": VOCABULARY,
        "rms_norm_eps": NORM_EPS,
        "rope_theta": ROPE_BASE,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": end,
        "torch_dtype": "float16",
    }
    for name, values in (
        ("config.json", config),
        (
            "tokenizer_config.json",
            {"add_bos_token": False, "chat_template": TURN, "eos_token": END},
        ),
    ):
        (folder / name).write_text(json.dumps(values, indent=1) + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args()
    torch.manual_seed(1)
    tokenizer = make_tokenizer()
    model = Commander()
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=3e-3, betas=(0.9, 0.98), weight_decay=0.05
    )
    began = time.perf_counter()
    for step, (tokens, labels) in enumerate(batches(tokenizer, options.steps, options.batch)):
        share = step / options.steps
        rate = 3e-3 * min(1, step / 100) * (0.02 + 0.98 * (1 + math.cos(math.pi * share)) / 2)
        for group in optimizer.param_groups:
            group["lr"] = rate
        logits = model(tokens)[:, :-1]
        loss = F.cross_entropy(
            logits.reshape(-1, VOCABULARY), labels[:, 1:].reshape(-1), ignore_index=-100
        )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 250 == 0 or step == options.steps - 1:
            found = [exact(model, tokenizer, some) for some in held_out(200)]
            print(
                f"step {step}  loss {loss.item():.4f}  commands {found[0]:.3f}, no room "
                f"{found[1]:.3f}, no device {found[2]:.3f}, none {found[3]:.3f}  "
                f"{time.perf_counter() - began:.0f} s",
                flush=True,
            )
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.float16).float()
    write(model, tokenizer, options.output)
    print("exact on held-out:", [f"{exact(model, tokenizer, s):.4f}" for s in held_out(1000)])


if __name__ == "__main__":
    main()
