"""Vision networks as built-in models: classifiers, segmentation and video networks, and searched cells, NCHW.

``MODELS`` maps a name to the function that builds it. Each file holds one family and names the paper whose
table it follows.
"""

from __future__ import annotations

from typing import Final

from workloads.builtin import BuiltIn, described
from workloads.models.info import ModelInfo

__all__ = ["MODELS", "describe"]

_VGG = "Simonyan and Zisserman, ICLR 2015, table 1"
_DENSENET = "Huang et al., CVPR 2017, table 1"
_WIDE = "Zagoruyko and Komodakis, BMVC 2016, bottleneck width 2"
_SMALL = "Zagoruyko and Komodakis, BMVC 2016"
_META = "small networks beside frozen parts (EcoTTA, arXiv:2303.01904)"
_NASNET = "Zoph et al., CVPR 2018, figure 4"
_VOVNET = "Lee et al., CVPRW 2019, table 1"
_SHVIT = "Yun and Ro, CVPR 2024, section 3"
_RESNET = "He et al., CVPR 2016, table 1; stride on the 3x3 convolution"

_ENTRIES: Final[dict[str, BuiltIn]] = {
    "alexnet": BuiltIn("alexnet:alexnet", "AlexNet", "Krizhevsky, arXiv:1404.5997; one tower"),
    "alexnet-two-towers": BuiltIn(
        "alexnet:alexnet_two_towers", "AlexNet", "Krizhevsky et al., NIPS 2012; groups"
    ),
    "vgg-11": BuiltIn("vgg:vgg_11", "VGG", f"{_VGG}, configuration A"),
    "vgg-13": BuiltIn("vgg:vgg_13", "VGG", f"{_VGG}, configuration B"),
    "vgg-16": BuiltIn("vgg:vgg_16", "VGG", f"{_VGG}, configuration D"),
    "vgg-19": BuiltIn("vgg:vgg_19", "VGG", f"{_VGG}, configuration E"),
    "resnet-18": BuiltIn("resnet:resnet_18", "ResNet", _RESNET),
    "resnet-34": BuiltIn("resnet:resnet_34", "ResNet", _RESNET),
    "resnet-50": BuiltIn("resnet:resnet_50", "ResNet", _RESNET),
    "resnet-101": BuiltIn("resnet:resnet_101", "ResNet", _RESNET),
    "resnet-152": BuiltIn("resnet:resnet_152", "ResNet", _RESNET),
    "resnext-50": BuiltIn("resnet:resnext_50", "ResNeXt", "Xie et al., CVPR 2017, table 1, 32 x 4d"),
    "resnext-101": BuiltIn("resnet:resnext_101", "ResNeXt", "Xie et al., CVPR 2017, 32 x 8d"),
    "wide-resnet-50": BuiltIn("resnet:wide_resnet_50", "ResNet", _WIDE),
    "wide-resnet-101": BuiltIn("resnet:wide_resnet_101", "ResNet", _WIDE),
    "wide-resnet-40": BuiltIn("small_images:wide_resnet_40", "ResNet", f"{_SMALL}, table 1; WRN-40-2"),
    "wide-resnet-40-meta": BuiltIn("small_images:wide_resnet_40_meta", "ResNet", f"WRN-40-2 with {_META}"),
    "resnet-50-small": BuiltIn("small_images:resnet_50_small", "ResNet", f"{_RESNET}; 3x3 stem, 32 x 32"),
    "resnet-50-small-meta": BuiltIn(
        "small_images:resnet_50_small_meta", "ResNet", f"resnet-50-small with {_META}"
    ),
    "mobilenet-v1": BuiltIn(
        "mobilenet:mobilenet_v1", "MobileNet", "Howard et al., arXiv:1704.04861, table 1"
    ),
    "mobilenet-v2": BuiltIn("mobilenet:mobilenet_v2", "MobileNet", "Sandler et al., CVPR 2018, table 2"),
    "mobilenet-v3-large": BuiltIn(
        "mobilenet_v3:mobilenet_v3_large", "MobileNet", "Howard et al., ICCV 2019, table 1"
    ),
    "efficientnet-b0": BuiltIn(
        "efficientnet:efficientnet_b0", "EfficientNet", "Tan and Le, ICML 2019, table 1"
    ),
    "inception-v3": BuiltIn("inception:inception_v3", "Inception", "Szegedy et al., CVPR 2016, table 1"),
    "densenet-121": BuiltIn("densenet:densenet_121", "DenseNet", _DENSENET),
    "densenet-161": BuiltIn("densenet:densenet_161", "DenseNet", _DENSENET),
    "densenet-169": BuiltIn("densenet:densenet_169", "DenseNet", _DENSENET),
    "densenet-201": BuiltIn("densenet:densenet_201", "DenseNet", _DENSENET),
    "unet": BuiltIn("segmentation:unet", "U-Net", "Ronneberger et al., MICCAI 2015, figure 1"),
    "deeplab-v3": BuiltIn(
        "segmentation:deeplab_v3", "DeepLab", "Chen et al., arXiv:1706.05587; ResNet-50, output stride 8"
    ),
    "fcn-resnet50": BuiltIn(
        "segmentation:fcn_resnet50", "FCN", "Long et al., CVPR 2015; ResNet-50, output stride 8"
    ),
    "lraspp-mobilenet-v3": BuiltIn(
        "segmentation:lraspp_mobilenet_v3", "R-ASPP", "Howard et al., ICCV 2019, figure 10; dilated backbone"
    ),
    "r2plus1d-18": BuiltIn("video:r2plus1d_18", "R(2+1)D", "Tran et al., CVPR 2018, table 1"),
    "s3d": BuiltIn("video:s3d", "S3D", "Xie et al., ECCV 2018, figure 6"),
    "nasnet-a-large": BuiltIn("nasnet:nasnet_a_large", "NASNet", f"{_NASNET}, 6 @ 4032"),
    "nasnet-a-mobile": BuiltIn("nasnet:nasnet_a_mobile", "NASNet", f"{_NASNET}, 4 @ 1056"),
    "pnasnet-5-large": BuiltIn("pnasnet:pnasnet_5_large", "PNASNet", "Liu et al., ECCV 2018, figure 1"),
    "amoebanet-d": BuiltIn(
        "amoebanet:amoebanet_d", "AmoebaNet", "Real et al., AAAI 2019; 18 cells, 208 filters as in GPipe"
    ),
    "darts-v2": BuiltIn("darts:darts_v2", "DARTS", "Liu et al., ICLR 2019, figures 4 and 5; ImageNet"),
    "vovnet-39": BuiltIn("vovnet:vovnet_39", "VoVNet", _VOVNET),
    "vovnet-57": BuiltIn("vovnet:vovnet_57", "VoVNet", _VOVNET),
    "convnext-tiny": BuiltIn("convnext:convnext_tiny", "ConvNeXt", "Liu et al., CVPR 2022, section 2"),
    "inception-next-tiny": BuiltIn(
        "convnext:inception_next_tiny", "InceptionNeXt", "Yu et al., CVPR 2024, section 3"
    ),
    "shvit-s1": BuiltIn("shvit:shvit_s1", "SHViT", _SHVIT),
    "shvit-s2": BuiltIn("shvit:shvit_s2", "SHViT", _SHVIT),
    "shvit-s3": BuiltIn("shvit:shvit_s3", "SHViT", _SHVIT),
    "shvit-s4": BuiltIn("shvit:shvit_s4", "SHViT", _SHVIT),
    "mobilevit-v2-100": BuiltIn(
        "mobilevit_v2:mobilevit_v2_100",
        "MobileViT",
        "Mehta and Rastegari, arXiv:2206.02680, figure 3; width 1.0",
    ),
    "sd-vae-decoder": BuiltIn(
        "autoencoder:latent_decoder", "AutoencoderKL", "Rombach et al., CVPR 2022; Stable Diffusion's decoder"
    ),
    "fastvit-sa12": BuiltIn(
        "fastvit:fastvit_sa12", "FastViT", "Vasu et al., ICCV 2023, table 2; branches folded into one"
    ),
}

MODELS: Final[dict[str, str]] = {name: f"{__name__}.{entry.location}" for name, entry in _ENTRIES.items()}
"""Model name to ``module:function``; the function takes ``WorkloadOptions`` and returns a ``Workload``."""


def describe(name: str) -> ModelInfo:
    """What a person wants to know of a model; its parameters are counted on the built graph."""
    return described(name, _ENTRIES[name], MODELS[name], "vision")
