"""Trains a 64-128-64-10 network on the handwritten digits of scikit-learn with one compiled step.

    python examples/digits.py --epochs 40 --plot digits-loss.png

`train_step` is forward pass, backward pass and Adam's update in one native program; see what becomes of it with
`tapefuse dump examples/digits.py:train_step --stage optimized` (or `loops`, `llvm`, `memory`, ...).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

import numpy as np

import tapefuse as tp
from tapefuse import nn, optim

SEED = 1
BATCH = 32


class Classifier(nn.Module):
    """Logits of the ten digits from 64 grey values."""

    def __init__(self, seed: int = SEED):
        super().__init__()
        rng = np.random.default_rng(seed)
        self.layers = [
            nn.Dense(128, "relu", inputs=64, seed=rng),
            nn.Dense(64, "relu", inputs=128, seed=rng),
            nn.Dense(10, inputs=64, seed=rng),
        ]

    def __call__(self, x: tp.Tensor) -> tp.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


model = Classifier()
optimizer = optim.Adam(learning_rate=1e-3)


@tp.tape_function(input_signature=[tp.TensorSpec(("B", 64), np.float32), tp.TensorSpec(("B",), np.int64)])
def train_step(x: tp.Tensor, y: tp.Tensor) -> tp.Tensor:
    """One step of Adam on a batch of any size. Returns the mean loss."""
    with tp.GradientTape() as tape:
        loss = nn.softmax_cross_entropy(model(x), y).mean()
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    return loss


@tp.tape_function(input_signature=[tp.TensorSpec((None, 64), np.float32)])
def predict(x: tp.Tensor) -> tp.Tensor:
    """The most likely digit of each image."""
    return tp.argmax(model(x), axis=-1)


def load() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """x_train, y_train, x_test, y_test: 1,797 images of 8 x 8 pixels in 0..1, a fifth of them for the test."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    x, y = (digits.data / 16).astype(np.float32), digits.target.astype(np.int64)
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.2, stratify=y, random_state=SEED)
    return x_train, y_train, x_test, y_test


def batches(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All examples once, shuffled; the last batch is smaller."""
    order = rng.permutation(len(x))
    for start in range(0, len(x), BATCH):
        chosen = order[start : start + BATCH]
        yield x[chosen], y[chosen]


def train(x: np.ndarray, y: np.ndarray, epochs: int) -> list[float]:
    """The mean loss of every epoch."""
    from rich.progress import track

    rng = np.random.default_rng(SEED)
    losses = []
    for _ in track(range(epochs), description="training"):
        losses.append(float(np.mean([train_step(*batch).item() for batch in batches(x, y, rng)])))
    return losses


def seconds(call: Callable[[], object], repeats: int) -> float:
    """The median time of one call."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def step_times(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Seconds of one training step on a batch, compiled and eager. The model goes on learning meanwhile."""
    compiled = seconds(lambda: train_step(x, y), 200)
    eager = seconds(lambda: train_step.__wrapped__(tp.constant(x), tp.constant(y)), 10)
    return compiled, eager


def save_curve(losses: list[float], file: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    axes.semilogy(range(1, len(losses) + 1), losses)
    axes.set(xlabel="epoch", ylabel="mean cross-entropy", title="handwritten digits, 64-128-64-10, Adam")
    axes.grid(True, which="both", alpha=0.3)
    figure.savefig(file, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--plot", default="digits-loss.png", metavar="FILE")
    options = parser.parse_args()

    x_train, y_train, x_test, y_test = load()
    start = time.perf_counter()
    train_step(x_train[:BATCH], y_train[:BATCH])
    first_call = time.perf_counter() - start
    losses = train(x_train, y_train, options.epochs)
    accuracy = float(np.mean(np.asarray(predict(x_test)) == y_test))
    compiled, eager = step_times(x_train[:BATCH], y_train[:BATCH])
    save_curve(losses, options.plot)

    print(f"test accuracy        {accuracy:.4f}  ({len(x_test)} images, {options.epochs} epochs)")
    print(f"first call           {first_call * 1e3:.0f} ms  (trace, differentiate, compile)")
    print(f"compiled step        {compiled * 1e6:.1f} us  (batch of {BATCH}: forward, backward, Adam)")
    print(f"eager step           {eager * 1e6:.1f} us")
    print(f"loss curve           {options.plot}")


if __name__ == "__main__":
    main()
