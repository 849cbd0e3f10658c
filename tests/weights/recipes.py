"""A config for every method, on the models of the `models` fixture; after a colon, a variant."""

import torch

from roster.merge.methods import METHODS
from roster.weights import Operand, open_checkpoint

_SETTINGS = {
    "linear": "weight: [0.5, 1.5]",
    "slerp": "t: 0.3",
    "nuslerp": "weight: 1",
    "nuslerp:rows": "weight: 1, nuslerp_flatten: false",
    "nuslerp:columns": "weight: 1, nuslerp_flatten: false, nuslerp_row_wise: true",
    "task_arithmetic": "weight: 0.7, lambda: 0.9",
    "ties": "weight: 1, density: 0.3",
    "ties:tensor": "weight: 1, density: 0.3, trim: tensor, rescale: true",
    "dare_linear": "weight: 0.5, density: 0.4",
    "dare_ties": "weight: 0.5, density: 0.4, scale_to: norm",
    "della_linear": "weight: 0.5, density: 0.4, scale_to: probability",
    "della": "weight: 0.5, density: 0.4",
    "breadcrumbs": "weight: 0.5, density: 0.4, gamma: 0.05",
    "breadcrumbs_ties": "weight: 0.5, density: 0.4, rescale: true",
    "model-breadcrumbs": "beta: 0.3",
    "model_stock": "",
    "model_stock:rows": "filter_wise: true",
    "karcher": "",
    "sce": "",
    "sce:selected": "select_topk: 0.4",
    "fisher": "weight: [{filter: mlp, value: 0.5}, {value: 2}]",
    "regmean": "reduction: 0.8",
    "adamerging": "",
    "atlas:parts": "",
    "passthrough": "scale: 0.5",
}
EVERY = list(_SETTINGS)
_ONE = {"slerp", "passthrough"}
_NO_BASE = {"linear", "karcher", "fisher", "regmean", "passthrough"}


def config_text(name, folder):
    """YAML that merges m0 (and m1, where the method takes more than one) by a method."""
    slug = name.partition(":")[0]
    models = ", ".join(f"{{model: {folder / each}}}" for each in ("m0", "m1")[: 1 if slug in _ONE else 2])
    base = "" if slug in _NO_BASE else f"base_model: {folder / 'b'}\n"
    return f"merge_method: {slug}\nmodels: [{models}]\n{base}parameters: {{{_SETTINGS[name]}}}\n"


class Invented:
    """What a method that learns from data would know, made up."""

    def __init__(self, name, folder):
        self.method = METHODS[name.partition(":")[0]]
        self.parts = 3 if name.endswith(":parts") else 1
        self.source = open_checkpoint(folder / "m2")

    def of(self, tensor, names):
        if not self.method.takes:
            return [Operand(self.source, tensor) for _ in names]
        if self.method.takes == "coefficients":
            return [torch.linspace(-0.5, 0.7 + i, self.parts) for i in range(len(names))]
        width = self.source.specs[tensor].shape[-1]
        drawn = [torch.randn(width, width, generator=torch.Generator().manual_seed(i)) for i in range(len(names))]
        return [each @ each.T for each in drawn] if "down_proj" in tensor else None

    def files(self):
        return {}


def learned(name, folder):
    """For `plan_merge`; None for a method that learns nothing."""
    return Invented(name, folder) if METHODS[name.partition(":")[0]].learner is not None else None
