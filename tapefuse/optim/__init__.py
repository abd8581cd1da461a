"""Optimizers and gradient clipping, written with public functions, so that they trace into a compiled step."""

from tapefuse.optim.adam import Adam, AdamW
from tapefuse.optim.clip import clip_by_global_norm, clip_by_norm, global_norm
from tapefuse.optim.optimizer import Optimizer
from tapefuse.optim.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "clip_by_global_norm", "clip_by_norm", "global_norm"]
