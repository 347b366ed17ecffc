"""Networks drawn for the bytes they move: what aggregation, attention heads and windows cost, layer by layer.

VoVNet (arXiv:1904.09730) against DenseNet, SHViT (arXiv:2401.16456) against MobileViTv2 and FastViT, InceptionNeXt
(arXiv:2303.16900) against ConvNeXt. The layers are those of the published networks, priced by the GPU model, which saw
no row of any of them. Beside the papers' ratios stand rates of the benchmark tables that timm's authors publish.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from offchip.studies.network_runs import NetworkRun
from offchip.studies.study import Claim, ClaimResult, Outcome, Study, StudyTable, compare
from workloads.layer_builder import ConvLayer, LayerBuilder
from workloads.workload import WorkloadOptions

__all__ = ["INCEPTION_NEXT", "SHVIT", "VOVNET", "access_elements"]

EAGER: Final = "by-device-eager"
_TABLE: Final = "pytorch-image-models, results/benchmark-infer-amp-nchw-{}.csv"
_ON_3090: Final = _TABLE.format("pt240-cu124-rtx3090")
_ON_5090: Final = _TABLE.format("pt291-cu130-5090")
_TABLE_DIFFERS: Final = (
    "The table's batch is 1024, ours 256. Conversions of weights and changes of layout are left out."
)


def _claim(
    id: str, statement: str, published: float, unit: str, source: str, ours: float | None, method: str, differences: str
) -> ClaimResult:  # fmt: skip
    return compare(
        Claim(id, statement, published, unit, source, "published", "mechanism"), ours, method, differences
    )


# VoVNet: layers that read the one before them, concatenated once.

_VOVNET: Final = "VoVNet, arXiv:1904.09730, abstract"
_REVIEW: Final = "review of VoVNet, whose figures the review quotes"
_DETECTED: Final = NetworkRun("vovnet-39", "gtx-1080-ti", 1, "fp32", 320, prices=EAGER)
_OTHERS: Final = ("densenet-121", "densenet-161", "densenet-169", "densenet-201", "resnet-50", "resnet-101")
_PAIRS: Final = tuple((one, other) for one in ("vovnet-39", "vovnet-57") for other in _OTHERS)
GROWTH: Final = 12
"""Channels that a layer of DenseNet-40 adds; three blocks of as many layers (Huang et al., CVPR 2017, table 2)."""


def access_elements(block: str, inner: int) -> tuple[int, int]:
    """Elements that the convolutions of a 40-layer CIFAR network read and write, and its parameters, one image.

    ``block``: ``dense`` (a layer reads all before it and adds ``inner`` channels) or ``osa`` (a layer of ``inner``
    channels reads the one before it; a 1x1 product of the dense block's width takes all). Unfolded norms are left out.
    """
    net = LayerBuilder(block, WorkloadOptions(dtype="int8"))
    x = net.conv("stem", net.input("image", 3, 32, 32), ConvLayer(16, 3, 1, 1))
    for stage in range(3):
        width = net.shape(x)[1] + 12 * GROWTH
        parts = [x]
        for index in range(12):
            source = net.concat(f"{stage}.{index}.join", *parts) if block == "dense" else parts[-1]
            parts.append(net.conv(f"{stage}.{index}", source, ConvLayer(inner, 3, 1, 1)))
        x = net.concat(f"{stage}.join", *parts)
        if block == "osa":
            x = net.conv(f"{stage}.aggregate", x, ConvLayer(width, 1))
        if stage < 2:
            x = net.conv(f"{stage}.transition", x, ConvLayer(width, 1))
            x = net.pool(f"{stage}.pool", x, 2, 2, mode="average")
    graph = net.graph(x)
    convolutions = [operator for operator in graph.operators if operator.kind == "conv"]
    return sum(o.read_bytes + o.write_bytes for o in convolutions), graph.parameters()


def _equal_osa() -> tuple[int, int]:
    """Channels of the one-shot network with no more parameters than the dense one, and its accesses."""
    _, room = access_elements("dense", GROWTH)
    inner = max(c for c in range(1, 64) if access_elements("osa", c)[1] <= room)
    return inner, access_elements("osa", inner)[0]


def _vovnet() -> Outcome:
    def against(run: NetworkRun, pair: tuple[str, str]) -> tuple[float, float]:
        one, other = (replace(run, model=name).rates() for name in pair)
        return one.images_s / other.images_s, other.joules / one.joules

    ratios = {pair: against(_DETECTED, pair) for pair in _PAIRS}
    dense = [ratio for (_, other), ratio in ratios.items() if other.startswith("densenet")]
    method = (
        "Backbones alone, one image of 320 x 320 in FP32, eager, on one GTX 1080 Ti, by the GPU model: VoVNet-39 and "
        "57 against DenseNet-121, 161, 169 and 201, the best or worst pair of all."
    )
    unread = (
        "The claim is of detectors with their heads; which pairs it means, and on which GPU, is not in the abstract. "
        "Power is idle power and what operations and bytes add, by the device file."
    )
    inner, osa = _equal_osa()
    counted = (
        "Elements that the convolutions of DenseNet-40 read and write for one image of 32 x 32, from the graph; the "
        f"one-shot network has {inner} channels a layer, the most with no more parameters."
    )
    claims = [
        compare(Claim("speed", "faster than DenseNet, the best pair", 2.0, "x", _VOVNET, "published", "construction"),
                max(s for s, _ in dense), method,
                f"{unread} The abstract does not say that its figure is the best one; taking the best pair is our "
                "choice."),
        _claim("least-energy", "less energy than DenseNet, at least", 1.6, "x", _VOVNET, min(e for _, e in dense),
               method, unread),
        _claim("most-energy", "less energy than DenseNet, at most", 4.1, "x", _VOVNET, max(e for _, e in dense),
               method, unread),
        compare(Claim("dense-access", "memory accesses of DenseNet-40, million", 3.7, "", _REVIEW, "second-hand",
                      "counting"), access_elements("dense", GROWTH)[0] / 1e6, counted),
        compare(Claim("osa-access", "memory accesses with one-shot aggregation, million", 2.5, "", _REVIEW,
                      "second-hand", "mechanism"), osa / 1e6, counted,
                "How wide the paper's aggregation and transitions are was not read; ours are as wide as the dense "
                "block's."),
    ]  # fmt: skip
    table = NetworkRun("vovnet-39", "rtx-3090", 256)
    for model, published in (("vovnet-39", 2844.48), ("vovnet-57", 2356.05), ("densenet-121", 2764.41),
                             ("densenet-161", 1249.24), ("densenet-201", 1750.03)):  # fmt: skip
        claims.append(
            _claim(f"{model}-rate", f"{model} on an RTX 3090", published, "images/s", _ON_3090,
                   replace(table, model=model).rates().images_s, _amp(table), _TABLE_DIFFERS)
        )  # fmt: skip
    rows: list[tuple[str | float, ...]] = [
        (f"{one} against {other}", *ratios[one, other], *against(table, (one, other)))
        for one, other in _PAIRS
    ]
    columns = (
        "pair", "faster, GTX 1080 Ti, 1 image", "less energy", "faster, RTX 3090, 256 images", "less energy",
    )  # fmt: skip
    return Outcome(
        claims, [StudyTable("Backbones, times", columns, tuple(rows)), _networks(table, _NETWORKS)]
    )


def _amp(run: NetworkRun) -> str:
    folded = "batch norms behind convolutions folded, " if run.folded else ""
    return f"FP16, {run.batch} images, eager operators, {folded}on one {run.device}, by the GPU model."


_NETWORKS: Final = (
    "resnet-50",
    "resnet-101",
    "densenet-121",
    "densenet-161",
    "densenet-201",
    "vovnet-39",
    "vovnet-57",
)


def _networks(run: NetworkRun, models: tuple[str, ...]) -> StudyTable:
    """Multiply-adds, bytes, rate and energy of networks on one device."""
    rows = []
    for model in models:
        this = replace(run, model=model)
        graph, rates = this.graph(), this.rates()
        products = sum(o.flops for o in graph.operators if o.kind in ("conv", "matmul")) / 2 / run.batch
        rows.append((model, products / 1e9, rates.bytes / 1e6, rates.images_s, rates.joules))
    columns = ("network", "GMAC an image", "MB an image", "images/s", "J an image")
    title = f"{run.dtype.upper()} on one {run.device}, batch {run.batch}"
    return StudyTable(title, columns, tuple(rows))


# SHViT: large-stride stem, one head on a part of the channels.

_SHVIT: Final = "SHViT, arXiv:2401.16456, abstract"
_README: Final = "ysj9909/SHViT, README: throughput of pre-trained models"


def _shvit() -> Outcome:
    base = NetworkRun("shvit-s4", "a100-80gb", 256, folded=True)
    against = {name: replace(base, model=name).rates() for name in ("mobilevit-v2-100", "fastvit-sa12")}
    rate = base.rates().images_s
    processor = replace(base, device="dgx-a100", batch=16, dtype="fp32", processor=True)
    slower = replace(processor, model="mobilevit-v2-100").rates().images_s
    unread = "The GPU is not in the abstract (an A100 is assumed); the authors' script traces the model under autocast."
    claims = [
        _claim("gpu", "SHViT-S4 faster than MobileViTv2 x1.0 on a GPU", 3.3, "x", _SHVIT,
               rate / against["mobilevit-v2-100"].images_s, _amp(base), unread),
        _claim("cpu", "SHViT-S4 faster than MobileViTv2 x1.0 on a CPU", 8.1, "x", _SHVIT,
               processor.rates().images_s / slower, "FP32, 16 images, on one EPYC 7742, roofline of its cores.",
               "The authors' script uses one thread. The roofline knows operations and bytes, not how badly a CPU "
               "library runs permutations, narrow softmax and depthwise windows."),
        _claim("phone", "SHViT-S4 faster than MobileViTv2 x1.0 on an iPhone 12", 2.4, "x", _SHVIT, None,
               "Not covered.", "The phone's neural engine has no public data sheet to describe it by."),
        _claim("backbone", "backbone latency less than FastViT-SA12's on a GPU", 3.8, "x", _SHVIT,
               rate / against["fastvit-sa12"].images_s, f"{_amp(base)} Classifiers of 256 x 256 images.",
               "The claim is of a detector's backbone at an image size that the abstract does not give."),
        _claim("phone-backbone", "backbone latency less than FastViT-SA12's on a phone", 2.0, "x", _SHVIT, None,
               "Not covered.", "As for the phone."),
    ]  # fmt: skip
    for index, published in enumerate((33489.0, 26878.0, 20522.0, 14283.0), start=1):
        claims.append(
            _claim(f"s{index}", f"SHViT-S{index}", published, "images/s", _README,
                   replace(base, model=f"shvit-s{index}").rates().images_s, _amp(base), unread)
        )  # fmt: skip
    table = replace(base, device="rtx-5090")
    tabled = (
        ("shvit-s1", 64212.24), ("shvit-s2", 52247.89), ("shvit-s3", 35378.11), ("shvit-s4", 21175.32),
        ("mobilevit-v2-100", 5916.69), ("fastvit-sa12", 6597.09),
    )  # fmt: skip
    for model, published in tabled:
        run = replace(table, model=model, folded=model != "mobilevit-v2-100")
        claims.append(
            _claim(f"{model}-rate", f"{model} on an RTX 5090", published, "images/s", _ON_5090,
                   run.rates().images_s, _amp(run), _TABLE_DIFFERS)
        )  # fmt: skip
    models = ("shvit-s1", "shvit-s2", "shvit-s3", "shvit-s4", "mobilevit-v2-100", "fastvit-sa12")
    return Outcome(claims, [_networks(base, models), _kinds(base, models[3:])])


def _kinds(run: NetworkRun, models: tuple[str, ...]) -> StudyTable:
    """Bytes an image by kind of operator: where a network's traffic goes."""
    kinds = (
        "window",
        "conv",
        "matmul",
        "norm",
        "softmax",
        "activation",
        "elementwise",
        "copy",
        "reduce",
        "pool",
    )
    rows: list[tuple[str | float, ...]] = []
    for model in models:
        moved = dict.fromkeys(kinds, 0.0)
        for operator in replace(run, model=model).graph().operators:
            depthwise = getattr(operator.work, "depthwise", False)
            moved["window" if depthwise else operator.kind] += operator.read_bytes + operator.write_bytes
        rows.append((model, *(moved[kind] / 1e6 / run.batch for kind in kinds)))
    names = ("depthwise windows", "other convolutions", *kinds[2:])
    return StudyTable("MB an image by operator", ("network", *names), tuple(rows))


# InceptionNeXt: narrow windows on a part of the channels.

_INCEPTION: Final = "InceptionNeXt, arXiv:2303.16900, abstract"
_RATES: Final = "sail-sg/inceptionnext, README: throughput on an A100, batch 128"


def _inception() -> Outcome:
    run = NetworkRun("resnet-50", "a100-80gb", 128, "tf32", prices=EAGER)
    models = ("resnet-50", "convnext-tiny", "inception-next-tiny")
    infer = {name: replace(run, model=name).rates() for name in models}
    train = {name: replace(run, model=name, phase="train").rates() for name in models}
    method = (
        "Batch 128 in TF32 on one A100, eager operators; a training step is forward, backward and AdamW. TF32 because "
        "the authors' image of PyTorch allows it for products and convolutions."
    )
    windows = (
        "Depthwise windows are priced by their bytes or by one load from the multiprocessor's cache per tap. "
        "PyTorch's own kernels for them, and the passes over weights' gradients above all, are far from that, so what "
        "InceptionNeXt saves is small here. Changes of layout around ConvNeXt's norms are not in ours."
    )
    claims = [
        _claim("train", "training faster than ConvNeXt-T", 1.6, "x", _INCEPTION,
               train["inception-next-tiny"].images_s / train["convnext-tiny"].images_s, method, windows),
        _claim("share", "ConvNeXt-T's training rate over ResNet-50's", 0.6, "x", _INCEPTION,
               train["convnext-tiny"].images_s / train["resnet-50"].images_s, method, windows),
    ]  # fmt: skip
    published = ((969.0, 3149.0), (575.0, 2413.0), (901.0, 2900.0))
    for name, (trained, inferred) in zip(models, published, strict=True):
        claims += [
            _claim(f"{name}-train", f"{name}, training", trained, "images/s", _RATES, train[name].images_s, method,
                   windows),
            _claim(f"{name}-infer", f"{name}, inference", inferred, "images/s", _RATES, infer[name].images_s, method,
                   windows),
        ]  # fmt: skip
    table = NetworkRun("resnet-50", "rtx-3090", 256)
    for name, rate in zip(models, (3219.06, 3090.39, 2572.75), strict=True):
        claims.append(
            _claim(f"{name}-rate", f"{name} on an RTX 3090", rate, "images/s", _ON_3090,
                   replace(table, model=name).rates().images_s, _amp(table), _TABLE_DIFFERS)
        )  # fmt: skip
    tables = [_networks(run, models), _networks(replace(run, phase="train"), models), _kinds(run, models)]
    return Outcome(claims, tables)


VOVNET: Final = Study(
    "vovnet",
    "VoVNet: features concatenated once",
    "Lee et al., An Energy and GPU-Computation Efficient Backbone Network for Real-Time Object Detection, "
    "arXiv:1904.09730",
    "Backbones of VoVNet, DenseNet and ResNet, layer by layer: one image on a GTX 1080 Ti, a batch on an RTX 3090.",
    _vovnet,
)
SHVIT: Final = Study(
    "shvit",
    "SHViT: one attention head on a part of the channels",
    "Yun and Ro, SHViT: Single-Head Vision Transformer with Memory Efficient Macro Design, arXiv:2401.16456",
    "SHViT-S1 to S4, MobileViTv2 x1.0 and FastViT-SA12, layer by layer, on an A100, an RTX 5090 and a CPU.",
    _shvit,
)
INCEPTION_NEXT: Final = Study(
    "inception-next",
    "InceptionNeXt: depthwise windows in four branches",
    "Yu et al., InceptionNeXt: When Inception Meets ConvNeXt, arXiv:2303.16900",
    "ResNet-50, ConvNeXt-T and InceptionNeXt-T, layer by layer: training and inference on an A100, inference on an RTX "
    "3090.",
    _inception,
)
