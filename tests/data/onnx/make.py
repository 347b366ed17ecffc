"""Exports the ONNX files of this folder from PyTorch; needs torch, torchvision and onnxscript.

The content of every weight over 256 elements is left out, so the files cannot run; names, types and shapes
are as the exporters wrote them.
"""

import sys
from pathlib import Path

import onnx
import torch
from torch import nn
from torch.export import Dim
from torchvision import models

HERE = Path(__file__).parent
IMAGE = torch.zeros(2, 3, 224, 224)
TOKENS = torch.zeros(2, 16, dtype=torch.int64)


class Encoder(nn.Module):
    """Two encoder layers with an embedding and a head."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(64, 4, 128, activation="gelu", batch_first=True)
        self.embedding = nn.Embedding(1000, 64)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(64, 1000)

    def forward(self, tokens):
        return self.head(self.layers(self.embedding(tokens)))


class Recurrent(nn.Module):
    """A bidirectional LSTM of two layers with a head on the last step."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(32, 48, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(96, 10)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


def export(name, module, example, **options):
    path = HERE / f"{name}.onnx"
    parameters = sum(parameter.numel() for parameter in module.parameters())
    for parameter in module.parameters():  # equal tensors would be stored once
        nn.init.normal_(parameter)
    torch.onnx.export(module.eval(), (example,), str(path), **options)
    model = onnx.load(str(path), load_external_data=False)
    path.with_suffix(".onnx.data").unlink(missing_ok=True)
    for tensor in model.graph.initializer:
        sides = 1
        for side in tensor.dims:
            sides *= side
        if sides > 256:
            for field in ("raw_data", "float_data", "external_data", "data_location"):
                tensor.ClearField(field)
        tensor.ClearField("doc_string")
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    path.write_bytes(model.SerializeToString(deterministic=True))
    sys.stdout.write(f"{path.name}: {path.stat().st_size} bytes, {parameters} parameters\n")


def main():
    torch.manual_seed(0)
    kept = torch.onnx.TrainingMode.PRESERVE
    old = {"dynamo": False, "opset_version": 17}
    batch = {"image": {0: "batch"}}
    export("resnet50-torchscript", models.resnet50(), IMAGE, input_names=["image"], dynamic_axes=batch,
           do_constant_folding=False, training=kept, **old)  # fmt: skip
    export("mobilenet-v2-dynamo", models.mobilenet_v2(), IMAGE, input_names=["image"], dynamo=True,
           dynamic_shapes=({0: Dim("batch")},))  # fmt: skip
    export("encoder-dynamo", Encoder(), TOKENS, input_names=["tokens"], dynamo=True,
           dynamic_shapes=({0: Dim("batch"), 1: Dim("sequence")},))  # fmt: skip
    export("encoder-torchscript", Encoder(), TOKENS, input_names=["tokens"],
           dynamic_axes={"tokens": {0: "batch", 1: "sequence"}}, **old)  # fmt: skip
    export("lstm-torchscript", Recurrent(), torch.zeros(2, 20, 32), input_names=["x"],
           dynamic_axes={"x": {0: "batch", 1: "time"}}, **old)  # fmt: skip


if __name__ == "__main__":
    main()
