"""The draft head: from a token and the last hidden row of the position before it, the last hidden
row of its own position, and from that a guess at what follows. Formulas: docs/draft_head.md."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from calibrate.fingerprint import made_for
from draft_head.errors import HeadError
from draft_head.teacher import Teacher, rms_norm


class DraftHead(nn.Module):
    def __init__(self, teacher: Teacher, vocabulary: Tensor, inner: int) -> None:
        super().__init__()
        hidden = teacher.hidden
        self.eps = teacher.eps
        self.register_buffer("vocabulary", vocabulary, persistent=False)
        self.register_buffer("table", teacher.embedding, persistent=False)
        self.register_buffer("rows", teacher.lm_head[vocabulary].contiguous(), persistent=False)
        self.mix = nn.Parameter(torch.zeros(hidden, 2 * hidden))
        self.gate_up = nn.Parameter(torch.randn(2 * inner, 2 * hidden) * (2 * hidden) ** -0.5)
        self.down = nn.Parameter(torch.zeros(hidden, inner))
        self.deep_gate_up = nn.Parameter(torch.randn(2 * inner, hidden) * hidden**-0.5)
        self.deep_down = nn.Parameter(torch.zeros(hidden, inner))
        self.output_norm = nn.Parameter(teacher.final_norm.float().clone())

    def forward(self, tokens: Tensor, before: Tensor) -> Tensor:
        """[...] tokens, [..., hidden] rows of the positions before -> [..., hidden] rows."""
        z = self.inputs(tokens, before)
        x = F.linear(z, self.mix) + _gated(z, self.gate_up, self.down)
        return x + _gated(rms_norm(x.float(), self.eps), self.deep_gate_up, self.deep_down)

    def inputs(self, tokens: Tensor, before: Tensor) -> Tensor:
        token = rms_norm(self.table[tokens].float(), self.eps)
        return torch.cat([token, rms_norm(before.float(), self.eps)], dim=-1)

    def logits(self, rows: Tensor) -> Tensor:
        normed = rms_norm(rows.float(), self.eps) * self.output_norm
        return F.linear(normed.to(self.rows.dtype), self.rows).float()

    @torch.no_grad()
    def start(self, tokens: Tensor, before: Tensor, after: Tensor) -> None:
        """The least-squares map from the inputs to the rows."""
        width = self.mix.shape[1]
        gram, cross = torch.zeros(width, width), torch.zeros(width, self.mix.shape[0])
        for part in torch.arange(len(tokens)).split(8192):
            z = self.inputs(tokens[part], before[part])
            gram += z.T @ z
            cross += z.T @ after[part].float()
        gram += torch.eye(width) * gram.diagonal().mean() * 1e-4
        self.mix.copy_(torch.linalg.solve(gram, cross).T)

    @torch.no_grad()
    def average_with(self, start: "DraftHead") -> None:
        """With the head that this one was trained from: on text unlike that of the training the mean
        is right more often than this one (WiSE-FT, arXiv 2109.01903)."""
        before = dict(start.named_parameters())
        for name, value in self.named_parameters():
            value.lerp_(before[name], 0.5)


def _gated(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    gate, up = F.linear(x, gate_up).chunk(2, dim=-1)
    return F.linear(F.silu(gate) * up, down)


def load(path: Path, teacher: Teacher, model: Path) -> DraftHead:
    """One that was trained for this model."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            made, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError) as error:
        raise HeadError(f"{path} cannot be read: {error}") from error
    if made != made_for(model):
        raise HeadError(f"{path} was made for another model than {model}")
    vocabulary = tensors.pop("vocabulary").long()
    head = DraftHead(teacher, vocabulary, inner=tensors["down"].shape[1])
    head.load_state_dict({name: value.float() for name, value in tensors.items()})
    return head


def save(head: DraftHead, model: Path, path: Path) -> None:
    from safetensors.torch import save_file

    tensors = {
        name: value.detach().to(torch.float32 if value.dim() == 1 else torch.bfloat16).contiguous()
        for name, value in head.named_parameters()
    }
    tensors["vocabulary"] = head.vocabulary.to(torch.int32)
    part = path.with_suffix(".part")
    save_file(tensors, part, made_for(model))
    part.rename(path)
