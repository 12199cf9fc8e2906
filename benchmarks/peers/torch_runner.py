"""The torch.func recipe: per-example Jacobians by `vmap(jacrev)`, one einsum a leaf.

Its environment, with any Python that PyTorch supports:

    python -m venv torch
    torch/bin/pip install torch==2.13.0 numpy

The networks are written again here, in PyTorch's own layout (channels first).
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]

from benchmarks.peers import worker

Params = dict[str, Any]
_METHOD = "torch.func:jacrev"


class TorchRunner:
    """PyTorch's published recipe."""

    methods = (_METHOD,)

    def versions(self) -> dict[str, str]:
        """Of the libraries at work."""
        return {"torch": torch.__version__}

    def device(self) -> str:
        """What PyTorch computes on."""
        if torch.cuda.is_available():
            return torch.cuda.get_device_name()
        return "cpu"

    def prepare(self, method: str, problem: worker.Problem) -> worker.Prepared:
        """`method` for `problem`; nothing is compiled."""
        work = problem.work
        on = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        params = {
            name: torch.from_numpy(_channels_first(array, (3, 2, 0, 1))).to(on)
            for name, array in problem.params.items()
        }
        x = torch.from_numpy(_channels_first(problem.x, (0, 3, 1, 2))).to(on)
        apply = _APPLY[work.case](**work.structure)
        kernel_fn = _kernel_fn(lambda p, x1: apply(p, x1[None])[0])
        blocks = torch.split(x, worker.block_size(work))
        # Modules are loaded at first use: that is neither the method's time nor memory.
        kernel_fn(params, x[:1], None)

        def call() -> torch.Tensor:
            with torch.no_grad():
                kernel = _assemble(lambda x1, x2: kernel_fn(params, x1, x2), blocks)
            if on.type == "cuda":
                torch.cuda.synchronize()
            return kernel

        def device_bytes() -> tuple[int, int]:
            return torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()

        return worker.Prepared(
            call=call,
            to_numpy=lambda kernel: kernel.cpu().numpy(),
            device_bytes=device_bytes if on.type == "cuda" else None,
        )


def _kernel_fn(one: Callable[..., Any]) -> Callable[..., Any]:
    def jacobian(params: Params, x: Any) -> list[Any]:
        leaves = torch.func.vmap(torch.func.jacrev(one), (None, 0))(params, x)
        return [leaf.flatten(2) for leaf in leaves.values()]

    def kernel(params: Params, x1: Any, x2: Any | None) -> Any:
        rows1 = jacobian(params, x1)
        rows2 = rows1 if x2 is None else jacobian(params, x2)
        terms = [
            torch.einsum("iap,jbp->ijab", r1, r2)
            for r1, r2 in zip(rows1, rows2, strict=True)
        ]
        return sum(terms[1:], terms[0])

    return kernel


def _assemble(kernel_fn: Callable[..., Any], blocks: tuple[Any, ...]) -> Any:
    rows: list[list[Any]] = [[None] * len(blocks) for _ in blocks]
    for i, x1 in enumerate(blocks):
        rows[i][i] = kernel_fn(x1, None)
        for j in range(i + 1, len(blocks)):
            rows[i][j] = kernel_fn(x1, blocks[j])
            rows[j][i] = rows[i][j].permute(1, 0, 3, 2)
    return torch.cat([torch.cat(row, dim=1) for row in rows])


def _channels_first(array: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return np.ascontiguousarray(array.transpose(axes)) if array.ndim == 4 else array


# Networks --------------------------------------------------------------------------


def _mlp(depth: int) -> Callable[..., Any]:
    def apply(params: Params, x: Any) -> Any:
        h = x
        for i in range(depth):
            h = F.relu(_dense(params, f"{i}", h))
        return _dense(params, "head", h)

    return apply


def _cnn(depth: int) -> Callable[..., Any]:
    def apply(params: Params, x: Any) -> Any:
        h = x
        for i in range(depth):
            h = F.relu(_conv(params, f"{i}", h))
        return _dense(params, "head", h.mean(dim=(2, 3)))

    return apply


def _resnet(num_stages: int, num_blocks: int) -> Callable[..., Any]:
    def apply(params: Params, x: Any) -> Any:
        h = F.relu(_conv(params, "stem", x))
        for stage in range(num_stages):
            for block in range(num_blocks):
                name = f"{stage}.{block}"
                shrinks = stage > 0 and block == 0
                stride = 2 if shrinks else 1
                skip = _conv(params, f"{name}.skip", h, stride) if shrinks else h
                h = F.relu(_conv(params, f"{name}.conv1", h, stride))
                h = F.relu(skip + _conv(params, f"{name}.conv2", h))
        return _dense(params, "head", h.mean(dim=(2, 3)))

    return apply


def _vit(patch: int, depth: int, heads: int) -> Callable[..., Any]:
    def apply(params: Params, x: Any) -> Any:
        n, channels, side, _ = x.shape
        grid = side // patch
        h = x.reshape(n, channels, grid, patch, grid, patch)
        h = h.permute(0, 2, 4, 3, 5, 1).reshape(n, grid * grid, -1)
        h = _dense(params, "patch", h) + params["position"]
        for i in range(depth):
            h = _block(params, f"{i}", h, heads, is_causal=False)
        return _dense(params, "head", _norm(params, "norm", h).mean(dim=1))

    return apply


def _gpt(depth: int, heads: int, num_outputs: int) -> Callable[..., Any]:
    def apply(params: Params, x: Any) -> Any:
        h = F.embedding(x, params["embedding"]) + params["position"]
        for i in range(depth):
            h = _block(params, f"{i}", h, heads, is_causal=True)
        last = _norm(params, "norm", h)[:, -1]
        return last @ params["embedding"][:num_outputs].T

    return apply


def _dense(params: Params, name: str, h: Any) -> Any:
    return h @ params[f"{name}.w"] + params[f"{name}.b"]


def _conv(params: Params, name: str, h: Any, stride: int = 1) -> Any:
    weight = params[f"{name}.w"]
    window, side = weight.shape[-1], h.shape[-1]
    # XLA's "SAME": the odd one of the padding goes to the far side.
    total = max((-(-side // stride) - 1) * stride + window - side, 0)
    near, far = total // 2, total - total // 2
    h = F.pad(h, (near, far, near, far)) if near != far else h
    padding = near if near == far else 0
    return F.conv2d(h, weight, params[f"{name}.b"], stride=stride, padding=padding)


def _norm(params: Params, name: str, h: Any) -> Any:
    return F.layer_norm(h, h.shape[-1:], params[f"{name}.g"], params[f"{name}.b"])


def _block(params: Params, name: str, h: Any, heads: int, *, is_causal: bool) -> Any:
    h = h + _attention(
        params, name, _norm(params, f"{name}.norm1", h), heads, is_causal
    )
    z = _dense(params, f"{name}.up", _norm(params, f"{name}.norm2", h))
    return h + _dense(params, f"{name}.down", F.gelu(z, approximate="tanh"))


def _attention(params: Params, name: str, h: Any, heads: int, is_causal: bool) -> Any:
    n, positions, dim = h.shape
    qkv = _dense(params, f"{name}.qkv", h)
    qkv = qkv.reshape(n, positions, 3, heads, dim // heads)
    query, key, value = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
    scores = torch.einsum("nqhd,nshd->nhqs", query, key) / math.sqrt(dim // heads)
    if is_causal:
        seen = torch.ones(
            positions, positions, dtype=torch.bool, device=h.device
        ).tril()
        scores = scores.masked_fill(~seen, -1e30)
    mixed = torch.einsum("nhqs,nshd->nqhd", scores.softmax(dim=-1), value)
    return _dense(params, f"{name}.out", mixed.reshape(n, positions, dim))


_APPLY = {"mlp": _mlp, "cnn": _cnn, "resnet": _resnet, "vit": _vit, "gpt": _gpt}


if __name__ == "__main__":
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    worker.serve(TorchRunner())
