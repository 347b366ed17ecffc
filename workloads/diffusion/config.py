"""Importer of a diffusion transformer's ``config.json`` as diffusers writes it (with ``_class_name``).

A workload is ``steps`` denoising steps, each the whole transformer once. ``batch`` counts what it sees: guidance with
and without the text needs two per image. Text encoders, the autoencoder and the scheduler are left out, and named.
``--dim`` chooses ``height`` and ``width`` in pixels, ``frames`` of a video and ``text`` tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final

from hw_configs.problems import InputError, Problem, bad_input, nearest
from workloads.diffusion import blocks
from workloads.diffusion.shape import Flux, PixArt, Sizes, StableDiffusion3, Wan
from workloads.graph import Attribute
from workloads.json_file import read_json
from workloads.layer_builder import LayerBuilder, chosen_dims
from workloads.transformer.fields import Fields
from workloads.workload import Phase, Workload, WorkloadOptions

__all__ = ["CLASSES", "IMPORTER", "DiffusersConfig"]

MAX_FILE_BYTES: Final = 2**20
MAX_STEPS: Final = 10_000
MAX_ROWS: Final = 2**22
PIXELS: Final = 8
"""Pixels of a side per latent (the autoencoders of all four families)."""
FRAMES: Final = 4
"""Frames per latent behind the first (Wan's autoencoder)."""
PICTURE_TOKENS: Final = 257
"""Rows of CLIP's encoder for a guiding picture."""
LEFT_OUT: Final = "text encoders; autoencoder; scheduler"

Writer = Callable[[LayerBuilder, Any, Sizes], str]


@dataclass(frozen=True, slots=True)
class _Read:
    """A family's numbers, the natural image, and pixels and frames that one row stands for."""

    spec: StableDiffusion3 | Flux | PixArt | Wan
    write: Writer
    height: int
    width: int
    text: int
    pixels: int
    frames: int = 0
    picture: int = 0


def _wide(f: Fields, name: str, default: object) -> int:
    return f.integer(name, default=default, most=2**20)


def _sd3(f: Fields) -> _Read:
    patch, channels = f.integer("patch_size", default=2, most=64), _wide(f, "in_channels", 16)
    out = _wide(f, "out_channels", 16)
    heads, dim = _wide(f, "num_attention_heads", 18), _wide(f, "attention_head_dim", 64)
    if _wide(f, "caption_projection_dim", heads * dim) != heads * dim:
        f.problem("caption_projection_dim", f"expected heads times their width ({heads * dim})")
    layers = f.integer("num_layers", default=18, most=2000)
    spec = StableDiffusion3(
        heads, dim, layers, channels * patch * patch, out * patch * patch, _wide(f, "joint_attention_dim", 4096),
        _wide(f, "pooled_projection_dim", 2048), _norm(f, "rms_norm"),
        tuple(f.integers("dual_attention_layers", most=layers - 1) or ()),
    )  # fmt: skip
    side = PIXELS * f.integer("sample_size", default=128, most=2**14)
    return _Read(spec, blocks.write_sd3, side, side, 333, PIXELS * patch)


def _norm(f: Fields, name: str) -> bool:
    """Whether queries and keys are normed, by the one kind that the family has."""
    return f.has("qk_norm") and bool(f.word("qk_norm", known=(name,)))


def _flux(f: Fields) -> _Read:
    channels, patch = _wide(f, "in_channels", 64), f.integer("patch_size", default=1, most=64)
    spec = Flux(
        _wide(f, "num_attention_heads", 24), _wide(f, "attention_head_dim", 128),
        f.integer("num_layers", default=19, most=2000),
        f.integer("num_single_layers", default=38, least=0, most=2000), channels,
        _wide(f, "out_channels", channels) * patch * patch, _wide(f, "joint_attention_dim", 4096),
        _wide(f, "pooled_projection_dim", 768), f.flag("guidance_embeds", default=False),
    )  # fmt: skip
    # Two by two latents are packed into the channels of one row.
    return _Read(spec, blocks.write_flux, 1024, 1024, 512, 2 * PIXELS * patch)


def _pixart(f: Fields) -> _Read:
    patch = f.integer("patch_size", default=2, most=64)
    heads, dim = _wide(f, "num_attention_heads", 16), _wide(f, "attention_head_dim", 72)
    width, sample = heads * dim, f.integer("sample_size", default=128, most=2**14)
    if _wide(f, "cross_attention_dim", width) != width:
        f.problem("cross_attention_dim", f"expected heads times their width ({width})")
    if f.flag("norm_elementwise_affine", default=False):
        f.problem("norm_elementwise_affine", "found true; norms with weights are not modelled in this family")
    f.word("norm_type", default="ada_norm_single", known=("ada_norm_single",))
    sized = f.flag("use_additional_conditions", default=sample == 128)
    if sized and width % 3:
        f.problem("use_additional_conditions", f"found true; expected a width that 3 divides, found {width}")
    projects = f.has("caption_channels")
    spec = PixArt(
        heads, dim, f.integer("num_layers", default=28, most=2000),
        _wide(f, "in_channels", 4) * patch * patch, _wide(f, "out_channels", 8) * patch * patch,
        _wide(f, "caption_channels", 4096) if projects else width, f.flag("attention_bias", default=True), sized,
        projects,
    )  # fmt: skip
    return _Read(
        spec, blocks.write_pixart, PIXELS * sample, PIXELS * sample, 120 if sized else 300, PIXELS * patch
    )


def _wan(f: Fields) -> _Read:
    patches = f.integers("patch_size", 3, least=1, most=64) or [1, 2, 2]
    if patches[0] != 1 or patches[1] != patches[2]:
        f.problem("patch_size", f"found {patches}; expected one frame and equal sides")
    heads, dim = _wide(f, "num_attention_heads", 40), _wide(f, "attention_head_dim", 128)
    picture = _wide(f, "image_dim", 0) if f.has("image_dim") else 0
    added = _wide(f, "added_kv_proj_dim", 0) if f.has("added_kv_proj_dim") else 0
    if bool(picture) != bool(added) or (added and added != heads * dim):
        f.problem("added_kv_proj_dim", f"found {added}; expected {heads * dim} beside image_dim, or neither")
    if f.has("pos_embed_seq_len"):
        f.problem("pos_embed_seq_len", "positions of a guiding picture are not modelled")
    size = prod(patches)
    spec = Wan(
        heads, dim, f.integer("num_layers", default=40, most=2000), _wide(f, "ffn_dim", 13824),
        _wide(f, "in_channels", 16) * size, _wide(f, "out_channels", 16) * size, _wide(f, "text_dim", 4096),
        _wide(f, "freq_dim", 256), _norm(f, "rms_norm_across_heads"), f.flag("cross_attn_norm", default=True), picture,
    )  # fmt: skip
    return _Read(
        spec, blocks.write_wan, 480, 832, 512, PIXELS * patches[1], 81, PICTURE_TOKENS if picture else 0
    )


CLASSES: Final[dict[str, Callable[[Fields], _Read]]] = {
    "SD3Transformer2DModel": _sd3,
    "FluxTransformer2DModel": _flux,
    "PixArtTransformer2DModel": _pixart,
    "WanTransformer3DModel": _wan,
}
"""Readers by ``_class_name``."""


class DiffusersConfig:
    """The importer; see :class:`workloads.importers.Importer`."""

    FORMAT = "diffusers config.json of a transformer"

    def recognises(self, path: Path, head: bytes) -> bool:
        """JSON that names a class of diffusers near its start."""
        text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
        return path.suffix.lower() == ".json" and text.startswith(b"{") and b'"_class_name"' in head

    def load(self, path: Path, options: WorkloadOptions) -> Workload:
        """The transformer's steps; raises ``InputError`` with all that is wrong with the file or the options."""
        document = read_json(path, MAX_FILE_BYTES)
        if not isinstance(document.data, dict):
            raise bad_input(
                f"found {type(document.data).__name__}; expected an object", file=document.file, line=1
            )
        f = Fields(document.data, document.file, document.line_of)
        kind = f.word("_class_name")
        if kind not in CLASSES:
            message = f"found {kind!r}; diffusion models that are read: {', '.join(CLASSES)}"
            raise f.refusal("_class_name", message, nearest(kind, CLASSES))
        read = CLASSES[kind](f)
        f.finish()
        folder = path.resolve().parent
        name = folder.parent.name if folder.name == "transformer" else folder.name
        return _workload(name if path.name == "config.json" and name else path.stem, kind, read, options)


def _workload(name: str, kind: str, read: _Read, options: WorkloadOptions) -> Workload:
    _check(kind, options)
    natural = {"height": read.height, "width": read.width, "text": read.text}
    natural |= {"frames": read.frames} if read.frames else {}
    height, width, text, *frames = chosen_dims(options, name, **natural)
    problems = [
        Problem(f"found {side}={value}; expected a multiple of {read.pixels}", path="--dim")
        for side, value in (("height", height), ("width", width))
        if value % read.pixels
    ]
    problems += [
        Problem(f"found frames={count}; expected one more than a multiple of {FRAMES}", path="--dim")
        for count in frames
        if count % FRAMES != 1
    ]
    latents = (frames[0] - 1) // FRAMES + 1 if frames else 1
    rows = latents * (height // read.pixels) * (width // read.pixels)
    if not problems and options.batch * (rows + text) > MAX_ROWS:
        problems.append(
            Problem(f"found {options.batch} x {rows + text} rows; expected at most {MAX_ROWS}", path="--dim")
        )
    if problems:
        raise InputError(problems)
    net = LayerBuilder(name, options)
    out = read.write(net, read.spec, Sizes(rows, text, read.picture))
    graph = net.graph(out)
    metadata: dict[str, Attribute] = {
        **graph.metadata, "model": name, "family": kind, "height": height, "width": width, "rows": rows,
        "text_tokens": text, "steps": options.steps, "left_out": LEFT_OUT,
    }  # fmt: skip
    if frames:
        metadata["frames"] = frames[0]
    phases = [
        Phase("step" if options.steps == 1 else f"step[{index}]", "forward", graph)
        for index in range(options.steps)
    ]
    return Workload(name, phases, metadata)


def _check(kind: str, options: WorkloadOptions) -> None:
    asked = {
        "--phase": options.phase,
        "--generate": options.generate,
        "--chunk": options.chunk,
        "--kv-dtype": options.kv_dtype,
        "--images": options.images,
        "--same-prompts": options.same_prompts,
    }
    problems = [
        Problem(f"found {value}; {kind} denoises in --steps: leave this option out", path=option)
        for option, value in asked.items()
        if value
    ]
    if options.steps > MAX_STEPS:
        problems.append(Problem(f"found {options.steps}; expected at most {MAX_STEPS}", path="--steps"))
    if problems:
        raise InputError(problems)


IMPORTER: Final = DiffusersConfig()
